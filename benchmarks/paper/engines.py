"""An engine whose networks can be timed one by one, and a shape's cost without any training."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from transformers import LlamaConfig

from benchmarks.paper.plan import Plan
from engine.api import Engine
from engine.benchmark import (
    SAMPLINGS,
    WIDTHS,
    Mode,
    Workload,
    measured_bandwidth,
    pass_times,
    passages_of,
    run_mode,
)
from engine.config import Compile, Dtype, EngineConfig, StageConfig
from engine.loading import load_model, random_model
from engine.model import Model
from engine.rows import Tokens
from engine.shared import Shared
from engine.tree import TokenTree
from engine.weights import bytes_read

_SPARE = 16
"""Positions behind a text that a tree of the widest pass needs at most."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine, and what runs its passes."""

    config: EngineConfig
    engine: Engine
    target: Model

    @classmethod
    def of(cls, config: EngineConfig, target: Model | None = None) -> Self:
        """From a configuration; `target` if it is not to be loaded. Raises as `Engine.load`."""
        target = target or load_model(
            config.model,
            dtype=config.dtype,
            device=config.device,
            max_model_len=config.max_model_len,
            chunk=config.prefill_chunk,
        )
        return cls(config, Engine(config, Shared(config, target)), target)

    def passes(
        self, stages: Sequence[StageConfig], context: int, rounds: int, bandwidth: float
    ) -> dict[str, Any]:
        """Each network of these stages: its passes by rows behind `context` tokens, and its floor.

        A median of `rounds` and half the distance between their quartiles, in milliseconds.
        """
        engine = self.engine.with_stages(stages)
        read = {name: bytes_read(scorer.network) for name, scorer in engine.scorers.items()}
        text = [token % 997 % engine.info.vocab_size for token in range(context)]
        samples: dict[tuple[str, int], list[float]] = {}
        for _ in range(rounds + 1):
            self._read(text)
            for key, sample in pass_times(engine.scorers, text, WIDTHS).items():
                samples.setdefault(key, []).append(sample)
        return {
            name: {
                "form": form,
                "weight_bytes": read[name],
                "floor_ms": 1e3 * read[name] / bandwidth,
                # The first round warmed up.
                "median_ms": {rows: statistics.median(samples[name, rows][1:]) for rows in WIDTHS},
                "spread_ms": {rows: _spread(samples[name, rows][1:]) for rows in WIDTHS},
            }
            for name, form in engine.info.passes.items()
        }

    def _read(self, text: list[int]) -> None:
        """Give the target the rows of a text, whose features a head reads."""
        tree = TokenTree(text[-1])
        read = Tokens([*text])
        self.target.score([read], tree)
        self.target.commit([read], tree, [[0]])


def window_of(plan: Plan, longest_prompt: int) -> int:
    """Rows that hold every prompt with its reply, and the text behind which passes are timed."""
    return max(longest_prompt + plan.num_tokens, plan.context + _SPARE)


def measure_shape(plan: Plan, name: str, dtype: Dtype, compile: Compile) -> dict[str, Any]:
    """What an untrained Llama costs: its passes, and plain decoding in tokens a second."""
    window = window_of(plan, plan.prompt_length)
    config = EngineConfig(name, dtype=dtype, max_model_len=window, compile=compile)
    shape = LlamaConfig(**plan.shapes[name])
    target = random_model(
        shape, dtype=dtype, device=config.device, max_model_len=window, chunk=config.prefill_chunk
    )
    loaded = Loaded.of(config, target)
    engine, bandwidth = loaded.engine, measured_bandwidth(str(target.device))
    passes = loaded.passes((), plan.context, plan.rounds, bandwidth)["target"]
    prompt = tuple(range(1, plan.prompt_length))
    workload = Workload([prompt], plan.num_tokens, SAMPLINGS[0], with_loops=True)
    passages, _ = passages_of(engine, workload)
    plain = Mode("plain", (), "off")
    runs = [run_mode(engine, plain, passages) for _ in range(plan.repetitions)]
    speeds = [(plan.num_tokens - 1) / sum(run.seconds) for run in runs]
    share = statistics.median(speeds) * passes["weight_bytes"] / bandwidth
    return {
        "shape": dict(plan.shapes[name]),
        "num_parameters": target.num_parameters,
        "dtype": engine.info.dtype,
        "bytes_per_second": bandwidth,
        "passes": passes,
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_second_range": [min(speeds), max(speeds)],
        "share_of_bandwidth": share,
    }


def _spread(samples: Sequence[float]) -> float:
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2
