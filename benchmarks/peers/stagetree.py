"""Ours in one precision: plain decoding, the configured stages at every step, and `auto`.

The engine is told to wait for its compiled passes when it loads, if the configuration allows any.
"""

from dataclasses import replace

from benchmarks.peers.rows import Emit, Row, Setup, Task
from engine.api import Engine
from engine.benchmark import Mode
from engine.request import GenerateRequest, Output, SamplingParams


def rows(setup: Setup) -> list[Row]:
    """Plain first; the others only if the configuration has stages."""
    engine = Engine.load(replace(setup.config, threads=setup.threads))
    modes = [Mode("plain", (), "off")]
    if stages := engine.config.stages:
        modes += [Mode("always", stages, "always"), Mode("auto", stages, "auto")]
    return [_row(engine, mode) for mode in modes]


def _row(engine: Engine, mode: Mode) -> Row:
    decoding = _Decoding(engine, mode)
    info = engine.with_stages(mode.stages).info
    about = "passes: " + ", ".join(f"{name} {form}" for name, form in info.passes.items())
    name = f"{mode.name} {info.dtype}"
    return Row(name, info.dtype, decoding.generate, decoding.begin, about)


class _Decoding:
    """A mode, with a fresh look-up and no experience in each round, as `stagetree bench` has it."""

    def __init__(self, engine: Engine, mode: Mode) -> None:
        self._loaded = engine
        self._mode = mode
        self._round = 0

    def begin(self) -> None:
        """Forget the round before: its text, and the prompts in the cache, which another had."""
        self._engine = self._loaded.with_stages(self._mode.stages)
        self._round += 1

    def generate(self, task: Task, emit: Emit) -> None:
        """Do a task, step by step."""
        request = GenerateRequest(
            request_id="",
            cache_salt=f"{self._mode.name} {self._round}",
            prompt=task.prompt,
            max_tokens=task.num_tokens,
            sampling=SamplingParams(temperature=0.0),
            ignore_eos=True,
            speculation=self._mode.speculation,
        )
        for item in self._engine.generate(request):
            if isinstance(item, Output):
                emit([token.token_id for token in item.tokens])
