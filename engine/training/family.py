"""The embedded family from end to end: streams, target, draft, table, model card.

Every member is made when it is first asked for and kept in a work folder; a second run takes up
whatever the first one left, training included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel

from engine.drafting.katz import KatzTable
from engine.training.card import FamilyFacts, ModelFacts, TableFacts, write_card
from engine.training.corpus import SOURCES, Source
from engine.training.measure import model_agreement, table_agreement
from engine.training.pretrain import Progress, Recipe, Run, mean_loss, windows
from engine.training.sample import SamplePlan, sample_texts
from engine.training.streams import Streams, prepare

_SHARED: dict[str, object] = {
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
TARGET_SHAPE: dict[str, object] = {
    **_SHARED,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
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
# A single layer does not carry over to positions it has not seen, so the long ones start early.
DRAFT_LENGTHS = ((0.0, 256), (0.4, 512), (0.7, 1024), (0.88, 2048))
_MEASURED_LENGTH, _MEASURED_SEQUENCES = 512, 200


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """What is trained, on what, and for how long."""

    target: Recipe
    draft: Recipe
    samples: SamplePlan
    target_shape: dict[str, object]
    draft_shape: dict[str, object]
    vocab_size: int = 8192
    table_bytes: int = 2_400_000
    sources: tuple[Source, ...] = SOURCES
    prompts: tuple[str, ...] = ()


class Family:
    """A family in a work folder, told of its progress line by line."""

    def __init__(self, plan: FamilyPlan, work: Path, report: Callable[[str], None]) -> None:
        self.plan = plan
        self._work = work
        self._report = report

    def export(self, out: Path, command: str) -> FamilyFacts:
        """Write the family as it ships: two models in bfloat16, the table, the model card."""
        facts = self._measure()
        for name, (model, _) in (("target", self.target), ("draft", self.draft)):
            model.bfloat16().save_pretrained(out / name)
            self.streams.tokenizer.save_pretrained(out / name)
        (out / "draft2").mkdir(exist_ok=True)
        self.table[0].save(out / "draft2")
        write_card(out / "README.md", facts, command)
        return facts

    @cached_property
    def streams(self) -> Streams:
        """The tokenizer and both token streams."""
        self._report("corpus: reading and packing the sources")
        plan = self.plan
        return prepare(self._work / "streams", plan.sources, plan.prompts, plan.vocab_size)

    @cached_property
    def target(self) -> tuple[PreTrainedModel, Progress]:
        """The target, trained to the end of its budget."""
        return self._train("target", self.plan.target_shape, self.plan.target)

    @cached_property
    def draft(self) -> tuple[PreTrainedModel, Progress]:
        """The draft, trained to the end of its budget."""
        return self._train("draft", self.plan.draft_shape, self.plan.draft)

    @cached_property
    def table(self) -> tuple[KatzTable, TableFacts]:
        """The better of two tables, one counted from the draft's samples, one from the corpus."""
        draft, plan = self.draft[0], self.plan.samples
        self._report("table: sampling from the draft")
        sampled = self._count(sample_texts(draft, self.streams.train, plan, self._work / "samples"))
        self._report("table: counting the corpus")
        counted = self._count(self.streams.train_texts())
        by_samples = table_agreement(sampled, draft, self._texts)
        by_corpus = table_agreement(counted, draft, self._texts)
        best = sampled if by_samples > by_corpus else counted
        return best, TableFacts(
            by_samples, by_corpus, plan.num_tokens, best.num_trigrams, best.num_bytes
        )

    @cached_property
    def _texts(self) -> list[Tensor]:
        """What every figure is measured on: ids [1, N] from files held out."""
        return windows(self.streams.held_out, _MEASURED_LENGTH, _MEASURED_SEQUENCES)

    def _train(
        self, name: str, shape: dict[str, object], recipe: Recipe
    ) -> tuple[PreTrainedModel, Progress]:
        streams = self.streams
        config = LlamaConfig(vocab_size=self.plan.vocab_size, **shape)  # type: ignore[arg-type]
        run = Run(config, recipe, self._work / f"{name}.pt")
        model = run.train(streams.train, streams.held_out, self._reporter(name))
        return model, run.progress

    def _reporter(self, name: str) -> Callable[[Progress, float], None]:
        def report(progress: Progress, spent: float) -> None:
            self._report(
                f"{name}: {spent:4.0%}, step {progress.step}, {progress.tokens:,} tokens, "
                f"loss {np.mean(progress.losses[-50:]):.3f}, "
                f"held out {progress.held_out[-1][1]:.3f}, "
                f"{progress.tokens / progress.seconds:,.0f} tokens/s"
            )

        return report

    def _count(self, texts: Iterable[NDArray[np.uint16]]) -> KatzTable:
        return KatzTable.build(texts, self.plan.vocab_size, max_bytes=self.plan.table_bytes)

    def _measure(self) -> FamilyFacts:
        table = self.table[1]
        self._report("card: measuring on the files held out")
        target, draft = self.target[0], self.draft[0]
        return FamilyFacts(
            sources=self.plan.sources,
            vocab_size=self.plan.vocab_size,
            streams=self.streams.facts,
            target=self._model_facts(*self.target),
            draft=self._model_facts(*self.draft),
            table=table,
            agreement=model_agreement(draft, target, self._texts),
            prompt_agreement=self._prompt_agreement(draft, target),
        )

    def _model_facts(self, model: PreTrainedModel, run: Progress) -> ModelFacts:
        loss = mean_loss(model, self._texts)
        return ModelFacts(model.num_parameters(), run.step, run.tokens, run.seconds / 60, loss)

    def _prompt_agreement(self, draft: PreTrainedModel, target: PreTrainedModel) -> float | None:
        encode = self.streams.tokenizer
        texts = [encode(p, return_tensors="pt")["input_ids"] for p in self.plan.prompts]
        return model_agreement(draft, target, texts) if texts else None
