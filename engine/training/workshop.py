"""Drafters for a model of one's own: a draft, a head, a table, each made in a work folder.

What a folder holds is used again: texts are packed once, trainings and samples go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from engine.drafting.head_checkpoint import save_head
from engine.tokenizer import load_tokenizer
from engine.training.compare import DrafterFigures, compare_drafters
from engine.training.jobs import Course, save_model, train_draft, train_head, train_target
from engine.training.recipe import Recipe
from engine.training.sample import SamplePlan, sample_texts
from engine.training.shapes import HeadPlan, draft_of, llama
from engine.training.streams import Streams, prepare
from engine.training.table import TableFacts, make_table
from engine.training.teacher import load_teacher
from engine.training.texts import Texts
from engine.training.tokenizer import train_tokenizer
from engine.training.tokens import windows
from engine.training.trainer import Progress, Report

Say = Callable[[str, float], None]
"""Hears what is being done that is not training, and what share of it is done."""

_SAMPLE_LENGTH = 512
_MEASURED_LENGTH, _MEASURED_SEQUENCES = 512, 64


def make_target(
    texts: Texts,
    work: Path,
    out: Path,
    sizes: tuple[int, int, int],
    recipe: Recipe,
    report: Report,
    say: Say,
) -> tuple[Progress, Streams]:
    """Train a tokenizer and a Llama from scratch; `sizes` are vocabulary, width and layers."""
    vocab_size, hidden_size, num_layers = sizes
    say("reading and packing texts", 0.0)
    tokenizer = partial(train_tokenizer, vocab_size=vocab_size)
    streams = prepare(work / "streams", texts, tokenizer, f"of its own, {vocab_size} entries")
    # A little text may hold fewer pieces than were asked for.
    end = streams.tokenizer.eos_token_id
    special = {"bos_token_id": end, "eos_token_id": end}
    config = llama(len(streams.tokenizer), hidden_size, num_layers, **special)
    origin = f"target of {sizes}; {streams.facts.origin}"
    model, progress = train_target(
        config, Course(streams, recipe, work / "target.pt", report, origin)
    )
    save_model(model, streams.tokenizer, out)
    return progress, streams


class Workshop:
    """One target, the texts that its drafters learn from, and the work folder."""

    def __init__(self, target: str, texts: Texts, work: Path, say: Say) -> None:
        self._name = str(Path(target).resolve()) if Path(target).exists() else target
        self._texts = texts
        self._work = work
        self._say = say

    @cached_property
    def target(self) -> PreTrainedModel:
        """The target, loaded."""
        self._say(f"loading {self._name}", 0.0)
        return load_teacher(self._name)

    @cached_property
    def streams(self) -> Streams:
        """The texts in the target's tokens."""
        tokenizer = load_tokenizer(self._name)
        self._say("reading and packing texts", 0.0)
        folder = self._work / "streams"
        return prepare(folder, self._texts, lambda texts: tokenizer, _fingerprint(tokenizer))

    def sampled(self, num_tokens: int) -> Streams:
        """The same, but to train on text that the target wrote; what is held out stays as it is."""
        plan = self._sample_plan(num_tokens, 1.0, _SAMPLE_LENGTH)
        folder = self._work / "target-samples"
        say = partial(self._say, "sampling from the target")
        rows = list(sample_texts(self.target, self.streams.train, plan, folder, say))
        facts = replace(self.streams.facts, origin=f"samples of {plan.origin}")
        return replace(self.streams, train=np.concatenate(rows), facts=facts)

    def make_draft(
        self,
        out: Path,
        sizes: tuple[int | None, int],
        is_distilled: bool,
        num_samples: int | None,
        recipe: Recipe,
        report: Report,
    ) -> Progress:
        """Train a draft and write it; `sizes` are width and layers, `num_samples` tokens."""
        config = draft_of(self.target, *sizes)
        streams = self.streams if num_samples is None else self.sampled(num_samples)
        kind = "distilled" if is_distilled else "from plain text"
        course = self._course(f"draft {sizes} {kind}", streams, "draft.pt", recipe, report)
        model, progress = train_draft(config, self.target, is_distilled, course)
        save_model(model, streams.tokenizer, out)
        return progress

    def make_head(
        self,
        out: Path,
        num_steps: int,
        num_drafts: int | None,
        recipe: Recipe,
        report: Report,
        layers: tuple[int, ...] | None = None,
    ) -> Progress:
        """Train a head and write it; it drafts the `num_drafts` most frequent tokens, or all.

        It reads the target's `layers`, or those of `HeadPlan.beside`.
        """
        plan = HeadPlan.beside(self.target, num_steps, num_drafts, layers)
        course = self._course(f"head {plan}", self.streams, "head.pt", recipe, report)
        head, progress = train_head(self.target, plan, course)
        save_head(head, out, is_sharing=True)
        return progress

    def make_table(
        self, out: Path, num_tokens: int, temperature: float, max_bytes: int
    ) -> TableFacts:
        """Write draft² for a draft, the better of two tables; here the target is that draft."""
        plan = self._sample_plan(num_tokens, temperature, SamplePlan(0).length)
        table, facts = make_table(
            self.target,
            self.streams,
            plan,
            self._measured(),
            self._work / "samples",
            max_bytes,
            self._say,
        )
        out.mkdir(parents=True, exist_ok=True)
        table.save(out)
        (out / "figures.json").write_text(json.dumps(asdict(facts), indent=2) + "\n")
        return facts

    def compare(self, names: Sequence[str], num_steps: int) -> list[DrafterFigures]:
        """Drafters of the target on text held out, best first."""
        self._say("measuring drafters", 0.0)
        return compare_drafters(names, self.target, self._measured(), num_steps)

    def _measured(self) -> list[Tensor]:
        length = min(_MEASURED_LENGTH, self._max_length)
        held_out = self.streams.held_out
        return windows(held_out, length, _MEASURED_SEQUENCES, self.target.device)

    @property
    def _max_length(self) -> int:
        positions = getattr(self.target.config.get_text_config(), "max_position_embeddings", None)
        return (positions or 1 << 20) - 1

    def _sample_plan(self, num_tokens: int, temperature: float, length: int) -> SamplePlan:
        plan = SamplePlan(num_tokens, temperature)
        origin = f"{self._name}; {self.streams.facts.origin}"
        room = self._max_length - plan.prompt_length
        return replace(plan, length=min(length, room), origin=origin).fitting(self.target)

    def _course(
        self, what: str, streams: Streams, file: str, recipe: Recipe, report: Report
    ) -> Course:
        origin = f"{what} for {self._name}; {streams.facts.origin}"
        return Course(streams, recipe.up_to(self._max_length), self._work / file, report, origin)


def _fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A name for a vocabulary, the same for the copy that is saved beside a draft."""
    entries = sorted(tokenizer.get_vocab().items())
    return hashlib.blake2b(json.dumps(entries).encode(), digest_size=6).hexdigest()
