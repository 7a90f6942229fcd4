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
from engine.training.corpus import SOURCES, Source, collect, without_prompts
from engine.training.head import TrainingTimeTest
from engine.training.jobs import LONG_LENGTHS, HeadPlan, train_draft, train_head, train_target
from engine.training.measure import model_agreement
from engine.training.objectives import mean_loss
from engine.training.sample import SamplePlan
from engine.training.streams import Streams, prepare
from engine.training.table import TableFacts, make_table
from engine.training.tokenizer import train_tokenizer
from engine.training.trainer import Progress, Recipe, Report, windows

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
) -> FamilyPlan:
    """The plan of the family that ships, for these budgets."""
    return FamilyPlan(
        target=Recipe(target_minutes, is_compiled=is_compiled),
        draft=Recipe(draft_minutes, lengths=LONG_LENGTHS, is_compiled=is_compiled),
        head=Recipe(head_minutes, lengths=LONG_LENGTHS, is_compiled=is_compiled),
        samples=SamplePlan(sample_tokens),
        target_shape=TARGET_SHAPE,
        draft_shape=DRAFT_SHAPE,
        prompts=tuple(prompts),
    )


class Family:
    """A family in a work folder.

    `say` hears a line as each part begins, `report` of training: the member, its progress, and the
    share of its budget that is spent.
    """

    def __init__(
        self,
        plan: FamilyPlan,
        work: Path,
        say: Callable[[str], None],
        report: Callable[[str, Progress, float], None],
    ) -> None:
        self.plan = plan
        self._work = work
        self._say = say
        self._report = report

    def export(self, out: Path, command: str) -> FamilyFacts:
        """Write the family as it ships: weights in bfloat16, the table, the model card."""
        facts = self._measure()
        save_head(self.head[0], out / "head", is_sharing=True)
        (out / "draft2").mkdir(parents=True, exist_ok=True)
        self.table[0].save(out / "draft2")
        for name, (model, _) in (("draft", self.draft), ("target", self.target)):
            export_model(model, self.streams, out / name)
        write_card(out / "README.md", facts, command)
        return facts

    @cached_property
    def streams(self) -> Streams:
        """The tokenizer and both token streams."""
        self._say("corpus: reading and packing the sources")
        plan = self.plan
        documents = without_prompts(collect(plan.sources), plan.prompts)
        make_tokenizer = partial(train_tokenizer, vocab_size=plan.vocab_size)
        return prepare(self._work / "streams", documents, make_tokenizer, "installed packages")

    @cached_property
    def target(self) -> tuple[PreTrainedModel, Progress]:
        """The target, trained to the end of its budget."""
        config = self._config(self.plan.target_shape)
        checkpoint = self._work / "target.pt"
        return train_target(
            config, self.streams, self.plan.target, checkpoint, self._reporter("target")
        )

    @cached_property
    def draft(self) -> tuple[PreTrainedModel, Progress]:
        """The draft, trained to the end of its budget."""
        return train_draft(
            self._config(self.plan.draft_shape),
            self.target[0],
            self.plan.is_draft_distilled,
            self.streams,
            self.plan.draft,
            self._work / "draft.pt",
            self._reporter("draft"),
        )

    @cached_property
    def head(self) -> tuple[HeadNetwork, Progress]:
        """The head, trained to the end of its budget."""
        return train_head(
            self.target[0],
            self.plan.head_plan,
            self.streams,
            self.plan.head,
            self._work / "head.pt",
            self._reporter("head"),
        )

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
            lambda line: self._say(f"table: {line}"),
        )

    @cached_property
    def _texts(self) -> list[Tensor]:
        """What every figure is measured on: ids [1, N] from files held out."""
        return windows(self.streams.held_out, _MEASURED_LENGTH, _MEASURED_SEQUENCES)

    def _config(self, shape: dict[str, object]) -> LlamaConfig:
        return LlamaConfig(vocab_size=self.plan.vocab_size, **shape)  # type: ignore[arg-type]

    def _reporter(self, name: str) -> Report:
        return lambda progress, spent: self._report(name, progress, spent)

    def _measure(self) -> FamilyFacts:
        table = self.table[1]
        target, draft = self.target[0], self.draft[0]
        head, head_run = self.head
        self._say("card: measuring on the files held out")
        return FamilyFacts(
            sources=self.plan.sources,
            vocab_size=self.plan.vocab_size,
            streams=self.streams.facts,
            target=_model_facts(*self.target, self._texts),
            draft=_model_facts(*self.draft, self._texts),
            head=_head_facts(head, head_run, target, self._texts, self._prompts),
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


def export_model(model: PreTrainedModel, streams: Streams, folder: Path) -> None:
    """Write a model in bfloat16, in shards that any host takes, with its tokenizer."""
    model.bfloat16().save_pretrained(folder, max_shard_size=MAX_SHARD)
    streams.tokenizer.save_pretrained(folder)
    model.float()


def _model_facts(model: PreTrainedModel, run: Progress, texts: list[Tensor]) -> ModelFacts:
    loss = mean_loss(model, texts)
    return ModelFacts(model.num_parameters(), run.step, run.tokens, run.seconds / 60, loss)


def _head_facts(
    head: HeadNetwork,
    run: Progress,
    target: PreTrainedModel,
    texts: list[Tensor],
    prompts: list[Tensor],
) -> HeadFacts:
    own = sum(p.numel() for p in head.parameters() if p.requires_grad)
    objective = TrainingTimeTest(head, target, HEAD_PLAN.num_steps)
    on_texts = objective.held_out(texts)
    long_enough = [ids for ids in prompts if ids.shape[1] > 4 * HEAD_PLAN.num_steps]
    on_prompts = objective.held_out(long_enough) if long_enough else on_texts
    facts = ModelFacts(own, run.step, run.tokens, run.seconds / 60, on_texts.loss)
    return HeadFacts(facts, on_texts.agreement, on_prompts.agreement)
