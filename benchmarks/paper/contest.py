"""All ways of decoding on the same passages, interleaved, until the repetitions or the time end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.paper.engines import Loaded
from benchmarks.paper.loop import run_peer, token_loop
from benchmarks.paper.plan import Plan
from benchmarks.paper.store import Measured, Runs, load_passages, save_passages
from benchmarks.peers import hugging_face
from benchmarks.peers.rows import Generate
from engine.benchmark import (
    SAMPLINGS,
    Divergence,
    Mode,
    Passage,
    Run,
    Workload,
    gap,
    modes_of,
    passages_of,
    run_mode,
)
from engine.config import (
    Compile,
    Dtype,
    EngineConfig,
    HeadStageConfig,
    ModelStageConfig,
    NgramStageConfig,
)
from engine.request import SamplingParams

PLAIN, LOOP, COMPILED = "plain", "loop", "hugging-face"
OURS = {
    "plain": PLAIN,
    "chain": "chain",
    "tree": "tree",
    "staged-draft": "staged",
    "staged-head": "staged-head",
    "auto": "auto",
}
"""Rows of ours by the names of their modes."""

ROWS = (LOOP, COMPILED, *OURS.values())

Prompts = Sequence[tuple[int, ...]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A way of decoding at one temperature."""

    name: str
    run: Callable[[Sequence[Passage]], Run]


def config_of(
    plan: Plan, path: Callable[[str], Path], window: int, dtype: Dtype, compile: Compile
) -> tuple[EngineConfig, HeadStageConfig]:
    """The grown target over its draft and draft², and the head that may stand for the draft."""
    budget, passes = plan.trees
    head = HeadStageConfig(str(path("head")), budget=budget, passes=passes)
    config = EngineConfig.from_mapping(
        {
            "model": str(path("grown")),
            "stages": (
                ModelStageConfig(str(path("draft")), budget=budget, passes=passes),
                NgramStageConfig(table=str(path("table")), budget=plan.guesses),
            ),
            "dtype": dtype,
            "max_model_len": window,
            "compile": compile,
        }
    )
    return config, head


class Contest:
    """The rows and their runs in a folder. `left_out` says why a row of others' is not measured."""

    def __init__(
        self, plan: Plan, loaded: Loaded, head: HeadStageConfig, folder: Path, say: Say
    ) -> None:
        self.left_out: dict[str, str] = {}
        self.runs = Runs(folder / "runs.jsonl")
        self._plan = plan
        self._engine = loaded.engine
        self._say = say
        self._folder = folder
        self._gaps: dict[tuple[float, Divergence], float] = {}
        self._warm: set[tuple[float, str]] = set()
        modes = modes_of(self._engine.config.stages, [head])
        modes_by_name = {mode.name: mode for mode in modes}
        self._modes = [replace(modes_by_name[name], name=row) for name, row in OURS.items()]
        hugging_face.quiet()
        self._peer = hugging_face.load(
            Path(loaded.config.model), self._engine.info.dtype, self._engine.info.device
        )

    def passages(self, sampling: SamplingParams, prompts: Prompts) -> tuple[list[Passage], float]:
        """What is decoded at a temperature, and the share that was cut: the same in every run."""
        file = self._folder / f"texts-{sampling.temperature:g}.json"
        if not file.exists():
            workload = Workload(
                prompts, self._plan.num_tokens, sampling, self._engine.info.eos_token_ids
            )
            save_passages(file, *passages_of(self._engine, workload))
        return load_passages(file)

    def measure(self, prompts: Prompts, deadline: float) -> None:
        """Run every row in every repetition that is not there yet.

        No repetition but the first begins that would end after `deadline`, by the monotonic clock.
        """
        texts = [self.passages(sampling, prompts)[0] for sampling in SAMPLINGS]
        rows = [self._rows(sampling) for sampling in SAMPLINGS]
        seconds = 0.0
        for repetition in range(self._plan.repetitions):
            if repetition and time.monotonic() + seconds > deadline:
                return
            seconds = 0.0
            for passages, each in zip(texts, rows, strict=True):
                shift = repetition % len(each)
                for row in [*each[shift:], *each[:shift]]:
                    seconds += self._run(row, repetition, passages)

    def _run(self, row: Row, repetition: int, passages: list[Passage]) -> float:
        """The seconds of the run; 0 if it is there already, or cannot be."""
        temperature = passages[0].request.sampling.temperature
        if row.name in self.left_out or repetition in self.runs.of(temperature, row.name):
            return 0.0
        self._say(f"T = {temperature:g}, repetition {repetition + 1}: {row.name}")
        try:
            self._warm_up(row, passages)
            started = time.monotonic()
            run = row.run(passages)
            seconds = time.monotonic() - started
        except Exception as error:  # any library's
            if row.name not in (LOOP, COMPILED):
                raise
            first_line = str(error).strip().partition("\n")[0]
            self.left_out[row.name] = f"{type(error).__name__}: {first_line}"
            self._say(f"{row.name} is left out: {self.left_out[row.name]}")
            return 0.0
        gaps = tuple(self._gap(passages, each) for each in run.divergences)
        self.runs.add(Measured(temperature, row.name, repetition, run, gaps))
        return seconds

    def _warm_up(self, row: Row, passages: list[Passage]) -> None:
        """Once in a process: caches, allocators, compilers."""
        if (key := (passages[0].request.sampling.temperature, row.name)) not in self._warm:
            row.run(passages[:1])
            self._warm.add(key)

    def _rows(self, sampling: SamplingParams) -> list[Row]:
        return [
            *(Row(mode.name, self._ours(mode)) for mode in self._modes),
            Row(LOOP, lambda passages: run_peer(token_loop(self._peer, sampling), passages)),
            Row(COMPILED, lambda passages: run_peer(self._compiled(sampling), passages)),
        ]

    def _ours(self, mode: Mode) -> Callable[[Sequence[Passage]], Run]:
        return lambda passages: run_mode(self._engine, mode, passages)

    def _compiled(self, sampling: SamplingParams) -> Generate:
        # Without graphs of whole steps a GPU waits for Python, and the row would be too slow.
        is_graph = self._peer.device.type == "cuda" and self._plan.backend == "inductor"
        mode = "reduce-overhead" if is_graph else "default"
        window = self._engine.info.max_model_len
        options = hugging_face.compiling(window, mode, self._plan.backend)
        if sampling.is_greedy:
            return hugging_face.generation(self._peer, do_sample=False, **options)
        drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k}
        return hugging_face.generation(self._peer, do_sample=True, **drawn, **options)

    def _gap(self, passages: Sequence[Passage], parting: Divergence) -> float:
        passage = passages[parting.passage]
        key = (passage.request.sampling.temperature, parting)
        if key not in self._gaps:
            text = passage.text[: parting.place]
            plain = passage.text[parting.place]
            self._gaps[key] = gap(self._engine, passage.request, text, plain, parting.token)
        return self._gaps[key]
