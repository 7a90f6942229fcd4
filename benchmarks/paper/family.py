"""Target, draft, head and draft² in a folder: each made once, and found there the next time."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.plan import Plan
from engine.benchmark import grow_checkpoint
from engine.drafting.katz import KatzTable
from engine.loading import choose_device
from engine.training.jobs import Course, save_model, train_target
from engine.training.measure import table_agreement
from engine.training.recipe import Recipe
from engine.training.sample import sample_texts
from engine.training.shapes import llama
from engine.training.streams import Streams
from engine.training.teacher import load_teacher
from engine.training.texts import Texts
from engine.training.tokens import Stream, windows
from engine.training.trainer import Progress, Report
from engine.training.workshop import Workshop

TOKENIZER = "embedded/target"
_MEASURED_LENGTH, _MEASURED_SEQUENCES = 512, 32

Say = Callable[[str], None]
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """One stage of the making: a name, which is that of its folder, and how it is made."""

    name: str
    make: Callable[[Path], Facts]


class Family:
    """What the folder holds and lacks; `make` fills it. `facts` tell of every member."""

    def __init__(
        self, plan: Plan, folder: Path, prompts: tuple[str, ...], minutes: float, say: Say
    ) -> None:
        self.plan = plan
        self.facts: dict[str, Facts] = {}
        self._folder = folder
        self._texts = Texts(prompts=prompts, sources=plan.sources)
        self._minutes = minutes
        self._say = say

    def path(self, name: str) -> Path:
        """Where a member is, or will be."""
        return self._folder / name

    def make(self) -> None:
        """Make what is not there, in order. Ctrl-C leaves what a later run goes on with."""
        for member in self._members():
            file = self._folder / "made" / f"{member.name}.json"
            if not file.exists():
                self._say(f"{member.name}: making")
                started = time.monotonic()
                for folder in (file.parent, self.path(member.name)):
                    folder.mkdir(parents=True, exist_ok=True)
                facts = member.make(self.path(member.name))
                facts["minutes"] = (time.monotonic() - started) / 60
                # Last, since its presence says that the rest is whole.
                file.write_text(json.dumps(facts, indent=2))
            self.facts[member.name] = json.loads(file.read_text())

    @cached_property
    def streams(self) -> Streams:
        """The texts in tokens, and what is held out of them."""
        return self._workshop(TOKENIZER).streams

    def held_out(self, count: int, length: int) -> list[tuple[int, ...]]:
        """Pieces of files held out: prompts of `length` token ids."""
        pieces = windows(self.streams.held_out, length - 1, count)
        return [tuple(piece[0].tolist()) for piece in pieces]

    def _members(self) -> Iterator[Member]:
        yield Member("target", self._target)
        yield Member("draft", self._draft)
        yield Member("grown", self._grown)
        yield Member("head", self._head)
        yield Member("table", self._table)

    def _target(self, out: Path) -> Facts:
        streams = self.streams
        ends = {name: streams.tokenizer.eos_token_id for name in ("bos_token_id", "eos_token_id")}
        config = llama(len(streams.tokenizer), *self.plan.target, **ends)
        origin = f"target {self.plan.target}; {streams.facts.origin}"
        recipe = self._recipe("target")
        course = Course(streams, recipe, self._work("target.pt"), self._report("target"), origin)
        model, progress = train_target(config, course)
        save_model(model, streams.tokenizer, out)
        return {**_told(progress), "num_parameters": model.num_parameters()}

    def _draft(self, out: Path) -> Facts:
        workshop = self._workshop(str(self.path("target")))
        progress = workshop.make_draft(
            out, self.plan.draft, False, None, self._recipe("draft"), self._report("draft")
        )
        return _told(progress)

    def _grown(self, out: Path) -> Facts:
        is_gpu = choose_device("auto").type == "cuda"
        dtype = torch.bfloat16 if is_gpu else torch.float32
        grow_checkpoint(self.path("target"), out, self.plan.grown, dtype=dtype)
        return {"shape": asdict(self.plan.grown)}

    def _head(self, out: Path) -> Facts:
        # Above the layers that were trained, all say the same: the last one stands for them.
        layers = (*self.plan.head_layers, self.plan.grown.num_hidden_layers)
        progress = self._workshop(str(self.path("grown"))).make_head(
            out, 3, None, self._recipe("head"), self._report("head"), layers
        )
        return {**_told(progress), "layers": layers}

    def _table(self, out: Path) -> Facts:
        draft = load_teacher(str(self.path("draft")))
        origin = f"{self.path('draft')}; {self.streams.facts.origin}"
        plan = replace(self.plan.samples, origin=origin).fitting(draft)
        samples = sample_texts(draft, self.streams.train, plan, self._work("samples"))
        counted = _Counted(samples, 60 * self.plan.shares["table"] * self._minutes)
        size = draft.config.get_text_config().vocab_size
        table = KatzTable.build(counted, size, max_bytes=self.plan.table_bytes)
        table.save(out)
        held_out = self.streams.held_out
        measured = windows(held_out, _MEASURED_LENGTH, _MEASURED_SEQUENCES, draft.device)
        return {
            "temperature": plan.temperature,
            "tokens": counted.num_tokens,
            "num_trigrams": table.num_trigrams,
            "num_bytes": table.num_bytes,
            "agreement": [table_agreement(table, draft, measured)],
        }

    def _workshop(self, model: str) -> Workshop:
        return Workshop(model, self._texts, self._work(), lambda what, share: self._say(what))

    def _work(self, name: str = "") -> Path:
        return self._folder / "work" / name

    def _recipe(self, stage: str) -> Recipe:
        return self.plan.recipe(stage, self._minutes)

    def _report(self, stage: str) -> Report:
        def report(progress: Progress, spent: float) -> None:
            if progress.step % 100 == 0 or spent >= 1:
                self._say(
                    f"{stage}: {min(1, spent):.0%}, step {progress.step}, loss "
                    f"{progress.losses[-1]:.2f}, {progress.tokens_per_second:,.0f} tokens/s"
                )

        return report


class _Counted:
    """Texts as they come, until the seconds are over, and how many tokens they were."""

    def __init__(self, texts: Iterable[Stream], seconds: float) -> None:
        self.num_tokens = 0
        self._texts = texts
        self._seconds = seconds

    def __iter__(self) -> Iterator[Stream]:
        started = time.monotonic()
        for text in self._texts:
            self.num_tokens += len(text)
            yield text
            if time.monotonic() - started > self._seconds:
                return


def _told(progress: Progress) -> Facts:
    """What is worth telling of a training."""
    return {
        "tokens": progress.tokens,
        "steps": progress.step,
        "training_seconds": progress.seconds,
        "held_out_loss": progress.held_out[-1][1],
        "agreement": list(progress.agreement),
    }
