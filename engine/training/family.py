"""The embedded family from end to end: streams, target, draft, head, table, model card.

Every member is made when it is first asked for and kept in a work folder; a second run takes up
whatever the first one left, training included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel

from engine.drafting.head_checkpoint import save_head
from engine.drafting.head_network import HeadNetwork
from engine.drafting.katz import KatzTable
from engine.training.card import FamilyFacts, HeadFacts, ModelFacts, write_card
from engine.training.corpus import SOURCES, Source
from engine.training.head import TrainingTimeTest
from engine.training.jobs import Course, save_model, train_draft, train_head, train_target
from engine.training.measure import model_agreement
from engine.training.objectives import mean_loss
from engine.training.recipe import LONG_LENGTHS, Recipe
from engine.training.sample import SamplePlan
from engine.training.shapes import HeadPlan
from engine.training.streams import Streams, prepare
from engine.training.table import TableFacts, make_table
from engine.training.texts import Texts
from engine.training.tokenizer import train_tokenizer
from engine.training.tokens import windows
from engine.training.trainer import Progress, Report

_SHARED: dict[str, object] = {
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
TARGET_SHAPE: dict[str, object] = {
    **_SHARED,
    "hidden_size": 384,
    "intermediate_size": 1280,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
DRAFT_SHAPE: dict[str, object] = {
    **_SHARED,
    "hidden_size": 80,
    "intermediate_size": 208,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
HEAD_PLAN = HeadPlan(intermediate_size=1024, layers=(2, 4, 6), num_steps=3)
MAX_SHARD = "15MB"
"""Any host of repositories takes files of this size."""

_MEASURED_LENGTH, _MEASURED_SEQUENCES = 512, 200


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """What is trained, on what, and for how long."""

    target: Recipe
    draft: Recipe
    head: Recipe
    samples: SamplePlan
    target_shape: dict[str, object]
    draft_shape: dict[str, object]
    head_plan: HeadPlan = HEAD_PLAN
    is_draft_distilled: bool = False
    vocab_size: int = 8192
    table_bytes: int = 2_400_000
    sources: tuple[Source, ...] = SOURCES
    prompts: tuple[str, ...] = ()


def family_plan(
    target_minutes: float,
    draft_minutes: float,
    head_minutes: float,
    sample_tokens: int,
    prompts: Iterable[str] = (),
    is_compiled: bool = False,
    is_draft_distilled: bool = False,
) -> FamilyPlan:
    """The plan of the family that ships, for these budgets."""
    return FamilyPlan(
        target=Recipe(target_minutes, is_compiled=is_compiled),
        draft=Recipe(draft_minutes, lengths=LONG_LENGTHS, is_compiled=is_compiled),
        # A budget this small buys more steps of fewer tokens: the head learns faster by them.
        head=Recipe(head_minutes, lengths=LONG_LENGTHS, batch_tokens=1024, is_compiled=is_compiled),
        samples=SamplePlan(sample_tokens),
        target_shape=TARGET_SHAPE,
        draft_shape=DRAFT_SHAPE,
        is_draft_distilled=is_draft_distilled,
        prompts=tuple(prompts),
    )


class Family:
    """A family in a work folder.

    `say` hears of all that is not training, and what share of it is done; `reporter`
    gives the one who hears of a member's training, by its name and recipe.
    """

    def __init__(
        self,
        plan: FamilyPlan,
        work: Path,
        say: Callable[[str, float], None],
        reporter: Callable[[str, Recipe], Report],
    ) -> None:
        self.plan = plan
        self._work = work
        self._say = say
        self._reporter = reporter

    def export(self, out: Path, command: str) -> FamilyFacts:
        """Write the family as it ships: weights in bfloat16, the table, the model card."""
        facts = self._measure()
        save_head(self.head[0], out / "head", is_sharing=True)
        (out / "draft2").mkdir(parents=True, exist_ok=True)
        self.table[0].save(out / "draft2")
        for name, (model, _) in (("draft", self.draft), ("target", self.target)):
            save_model(model, self.streams.tokenizer, out / name, MAX_SHARD)
        write_card(out / "README.md", facts, command)
        return facts

    @cached_property
    def streams(self) -> Streams:
        """The tokenizer and both token streams."""
        self._say("reading and packing the sources", 0.0)
        plan = self.plan
        texts = Texts(prompts=plan.prompts, sources=plan.sources)
        make_tokenizer = partial(train_tokenizer, vocab_size=plan.vocab_size)
        name = f"of its own, {plan.vocab_size} entries"
        return prepare(self._work / "streams", texts, make_tokenizer, name)

    @cached_property
    def target(self) -> tuple[PreTrainedModel, Progress]:
        """The target, trained to the end of its budget."""
        config = self._config(self.plan.target_shape)
        return train_target(config, self._course("target", self.plan.target))

    @cached_property
    def draft(self) -> tuple[PreTrainedModel, Progress]:
        """The draft, trained to the end of its budget."""
        config, plan = self._config(self.plan.draft_shape), self.plan
        course = self._course("draft", plan.draft)
        return train_draft(config, self.target[0], plan.is_draft_distilled, course)

    @cached_property
    def head(self) -> tuple[HeadNetwork, Progress]:
        """The head, trained to the end of its budget."""
        course = self._course("head", self.plan.head)
        return train_head(self.target[0], self.plan.head_plan, course)

    @cached_property
    def table(self) -> tuple[KatzTable, TableFacts]:
        """The better of two tables, one counted from the draft's samples, one from the corpus."""
        return make_table(
            self.draft[0],
            self.streams,
            self.plan.samples,
            self._texts,
            self._work / "samples",
            self.plan.table_bytes,
            self._say,
        )

    @cached_property
    def _texts(self) -> list[Tensor]:
        """What every figure is measured on: ids [1, N] from files held out."""
        return windows(self.streams.held_out, _MEASURED_LENGTH, _MEASURED_SEQUENCES)

    def _config(self, shape: dict[str, object]) -> LlamaConfig:
        return LlamaConfig(vocab_size=self.plan.vocab_size, **shape)  # type: ignore[arg-type]

    def _course(self, name: str, recipe: Recipe) -> Course:
        report = self._reporter(name, recipe)
        return Course(self.streams, recipe, self._work / f"{name}.pt", report, self._origin(name))

    def _origin(self, name: str) -> str:
        is_distilled = name == "draft" and self.plan.is_draft_distilled
        return f"{name} of a family{', distilled' * is_distilled}; {self.streams.facts.origin}"

    def _measure(self) -> FamilyFacts:
        table = self.table[1]
        target, draft = self.target[0], self.draft[0]
        self._say("measuring on the files held out", 0.0)
        return FamilyFacts(
            sources=self.plan.sources,
            vocab_size=self.plan.vocab_size,
            streams=self.streams.facts,
            target=_model_facts(*self.target, self._texts),
            draft=_model_facts(*self.draft, self._texts),
            head=_head_facts(self.plan.head_plan, *self.head, target, self._texts, self._prompts),
            table=table,
            agreement=model_agreement(draft, target, self._texts),
            prompt_agreement=model_agreement(draft, target, self._prompts or self._texts),
            has_prompts=bool(self.plan.prompts),
            is_draft_distilled=self.plan.is_draft_distilled,
        )

    @cached_property
    def _prompts(self) -> list[Tensor]:
        encode = self.streams.tokenizer
        return [encode(p, return_tensors="pt")["input_ids"] for p in self.plan.prompts]


def _model_facts(model: PreTrainedModel, run: Progress, texts: list[Tensor]) -> ModelFacts:
    loss = mean_loss(model, texts)
    return ModelFacts(model.num_parameters(), run.step, run.tokens, run.seconds / 60, loss)


def _head_facts(
    plan: HeadPlan,
    head: HeadNetwork,
    run: Progress,
    target: PreTrainedModel,
    texts: list[Tensor],
    prompts: list[Tensor],
) -> HeadFacts:
    own = sum(p.numel() for p in head.parameters() if p.requires_grad)
    objective = TrainingTimeTest(head, target, plan.num_steps)
    on_texts = objective.held_out(texts)
    long_enough = [ids for ids in prompts if ids.shape[1] > 4 * plan.num_steps]
    on_prompts = objective.held_out(long_enough) if long_enough else on_texts
    facts = ModelFacts(own, run.step, run.tokens, run.seconds / 60, on_texts.loss)
    return HeadFacts(facts, on_texts.agreement, on_prompts.agreement)
