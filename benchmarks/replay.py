"""Tokens a second at a chosen acceptance: the models' quality taken out of the question.

    python benchmarks/replay.py --prompts FILE.jsonl [--size 300] [--json replay.json]

A chain of drafts is replayed from a plain run, each right with the probability named, at no model's
cost (`engine/benchmark/replay.py`). So a step costs what the target's pass over the chain and the
engine's own work cost, which is the least that any drafter of that acceptance could bring it to.
Beside each measured ratio to plain stands what arithmetic makes of it: 1 + a + ... + a^k tokens a
step over the measured step cost. `--size` grows the embedded target, as `scale.py` does. Needs
torch and transformers alone.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.benchmark import (
    SIZES,
    Mode,
    ReplayEngine,
    ReplayStageConfig,
    Result,
    Workload,
    compare,
    expected_length,
    grown,
    machine,
    read_prompts,
    record,
)
from engine.benchmark.replay import Recordings
from engine.config import EngineConfig
from engine.request import SamplingParams

TARGET = "embedded/target"


@dataclass(frozen=True, slots=True)
class Row:
    """A replay, what was measured of it, and the ratio to plain that arithmetic predicts."""

    acceptance: float
    length: int
    predicted_ratio: float
    result: Result


def main() -> None:
    """Print a line for each acceptance and length and, if asked, write them as JSON."""
    arguments = _parser().parse_args()
    prompts = read_prompts(arguments.prompts, arguments.num_prompts, TARGET)
    replays = [(a, k) for a in arguments.acceptance for k in arguments.lengths]
    with grown(TARGET, SIZES.get(arguments.size)) as folder:
        config = EngineConfig(
            folder,
            dtype=arguments.dtype,
            max_model_len=max(map(len, prompts)) + arguments.tokens,
            threads=arguments.threads,
            compile=arguments.compile,
        )
        engine = ReplayEngine.load(config)
        sampling = SamplingParams(arguments.temperature, top_k=50)
        workload = Workload(prompts, arguments.tokens, sampling, engine.info.eos_token_ids)
        modes = [Mode("plain", (), "off"), *modes_of(replays, record(engine, workload))]
        plain, *results = compare(engine, modes, workload, arguments.repetitions).results
    rows = [
        Row(a, k, expected_length(a, k) / result.step_cost, result)
        for (a, k), result in zip(replays, results, strict=True)
    ]
    print_table(plain, rows)
    if arguments.json is not None:
        document = {
            "machine": machine(),
            "engine": {
                **asdict(engine.info),
                "model": f"{TARGET} at the cost of {arguments.size}M",
            },
            "num_prompts": len(prompts),
            "num_tokens": arguments.tokens,
            "repetitions": arguments.repetitions,
            "plain": asdict(plain),
            "replays": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def modes_of(replays: Sequence[tuple[float, int]], recordings: Recordings) -> list[Mode]:
    """A mode for each pair of an acceptance and a length."""
    stages = (
        ReplayStageConfig(budget=length, recordings=recordings, acceptance=acceptance)
        for acceptance, length in replays
    )
    return [Mode(f"replay {stage.acceptance:g}/{stage.budget}", (stage,)) for stage in stages]


def print_table(plain: Result, rows: Sequence[Row]) -> None:
    """The speed of plain decoding, then a line for each replay."""
    print(
        f"T = {plain.temperature:g}, plain {plain.tokens_per_second:.1f} tokens/s\n"
        "acceptance  chain  tokens/s    to plain (95 %)     τ (expected)   step cost   predicted"
    )
    for row in rows:
        result = row.result
        interval = f"({result.ratio_low:.2f}–{result.ratio_high:.2f})"
        expected = f"({expected_length(row.acceptance, row.length):.2f})"
        print(
            f"{row.acceptance:10.2f} {row.length:6} {result.tokens_per_second:9.1f}"
            f"    {result.ratio_to_plain:4.2f} {interval:14} {result.acceptance_length:5.2f}"
            f" {expected:8} {result.step_cost:11.2f} {row.predicted_ratio:11.2f}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    shares = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    add("--prompts", type=Path, required=True, help='a file of {"prompt": "..."}, one a line')
    add("--num-prompts", type=int, default=12)
    add("--tokens", type=int, default=128)
    add("--repetitions", type=int, default=5)
    add("--size", type=int, choices=(14, *SIZES), default=14, help="million weights")
    add("--acceptance", type=float, nargs="+", default=shares, help="above 0, at most 1")
    add("--lengths", type=int, nargs="+", default=[2, 4, 8, 16], help="draft tokens in a chain")
    add("--temperature", type=float, default=1.0, help="0, or any with top-k 50")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "auto"))
    add("--compile", default="wait", choices=("wait", "cached", "never"))
    add("--threads", type=int, default=0, help="0 leaves the number to torch")
    add("--json", type=Path, help="also write the figures here")
    return parser


if __name__ == "__main__":
    main()
