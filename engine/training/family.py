"""The embedded family from end to end: streams, target, draft, head, table, model card.

Every member is made when it is first asked for and kept in a work folder; a second run takes up
whatever the first one left, training included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

from transformers import LlamaConfig, PreTrainedModel

from engine.drafting.head_checkpoint import save_head
from engine.drafting.head_network import HeadNetwork
from engine.drafting.katz import KatzTable
from engine.training.card import FamilyFacts, write_card
from engine.training.family_measure import FamilyMeasure
from engine.training.jobs import Course, save_model, train_draft, train_head, train_target
from engine.training.plan import FamilyPlan
from engine.training.recipe import Recipe
from engine.training.streams import Streams, prepare
from engine.training.table import TableFacts, make_table
from engine.training.texts import Texts
from engine.training.tokenizer import train_tokenizer
from engine.training.trainer import Progress, Report

MAX_SHARD = "15MB"
"""Any host of repositories takes files of this size."""


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
        members = (self.target, self.draft, self.head, self.table[1])
        self._say("measuring on the files held out", 0.0)
        facts = self.measure.facts(*members)
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
            self.measure.texts,
            self._work / "samples",
            self.plan.table_bytes,
            self._say,
        )

    @cached_property
    def measure(self) -> FamilyMeasure:
        """What every figure is measured on."""
        return FamilyMeasure(self.plan, self.streams)

    def _config(self, shape: dict[str, object]) -> LlamaConfig:
        return LlamaConfig(vocab_size=self.plan.vocab_size, **shape)  # type: ignore[arg-type]

    def _course(self, name: str, recipe: Recipe) -> Course:
        report = self._reporter(name, recipe)
        return Course(self.streams, recipe, self._work / f"{name}.pt", report, self._origin(name))

    def _origin(self, name: str) -> str:
        is_distilled = name == "draft" and self.plan.is_draft_distilled
        return f"{name} of a family{', distilled' * is_distilled}; {self.streams.facts.origin}"
