"""Several texts at once in one engine: tokens a second in all, plain and `auto`.

    python benchmarks/load.py [--prompts FILE.jsonl] [--shapes 0,100,300] [--texts 1,2,4,8,16]

Without a file the prompts are the beginnings of our own sources. Each shape is the embedded target,
grown (0: as it is). So many texts are added at once; what is counted are the tokens of the steps in
which all of them sit and have begun. Rounds of plain and `auto` alternate. `share` is what plain
decoding makes of the machine's own passes: N tokens in the time that a pass takes over a row of
each of N texts as long as these, the host not counted, each round beside passes timed just before
and just after it, since a machine's speed moves. With `--fixed` five fixed sizes, used fully, are
measured too; `ratio` is to plain decoding of the same round. Needs torch and transformers alone.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from engine.api import Engine
from engine.benchmark import SIZES, grown, machine, read_prompts
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig, StageConfig
from engine.request import Finished, GenerateRequest, Output, SamplingParams, Speculation
from engine.rows import Tokens
from engine.scorer import TreeScorer
from engine.tokenizer import load_tokenizer
from engine.tree import TokenTree

FIXED = ((4, 1), (8, 1), (8, 2), (16, 2), (48, 6))
_NUM_PASSES = 9


@dataclass(frozen=True, slots=True)
class Load:
    """Tokens a second of so many texts in one mode: the median of rounds, and quartiles.

    `ratio` is to plain decoding of the same round, with its quartiles; `share` of plain alone.
    """

    shape: int
    num_texts: int
    mode: str
    rate: float
    quartiles: tuple[float, float]
    tokens_per_step: float
    ratio: tuple[float, float, float]
    share: float | None = None


def run(
    engine: Engine, prompts: Sequence[tuple[int, ...]], num_tokens: int, speculation: Speculation
) -> tuple[float, float]:
    """Tokens a second, and tokens a step, while all of these texts are being written."""
    for number, prompt in enumerate(prompts):
        sampling = SamplingParams(0.0)
        request = GenerateRequest(str(number), prompt, num_tokens, sampling, ignore_eos=True)
        engine.add(replace(request, speculation=speculation))
    begun: set[str] = set()
    while len(begun) < len(prompts):
        begun |= {event.request_id for event in engine.step() if isinstance(event, Output)}
    count = steps = 0
    started = time.perf_counter()
    while True:
        events = engine.step()
        count += sum(len(event.tokens) for event in events if isinstance(event, Output))
        steps += 1
        if any(isinstance(event, Finished) for event in events):
            break
    seconds = time.perf_counter() - started
    while engine.is_busy:
        engine.step()
    return count / seconds, count / steps


def engines_of(engine: Engine, stages: Sequence[StageConfig]) -> Mapping[str, Engine]:
    """The same weights behind each list of stages of fixed sizes."""
    draft, ngram = stages
    assert isinstance(draft, ModelStageConfig) and isinstance(ngram, NgramStageConfig)
    sized = {
        f"{budget} nodes, {passes} passes": replace(draft, budget=budget, passes=passes)
        for budget, passes in FIXED
    }
    return {name: engine.with_stages((stage, ngram)) for name, stage in sized.items()}


def measure(
    shape: int, arguments: argparse.Namespace, prompts: Sequence[tuple[int, ...]]
) -> Iterator[Load]:
    """All numbers of texts at one shape."""
    stages = (
        ModelStageConfig("embedded/draft", budget=48, passes=6),
        NgramStageConfig(table="embedded/draft2", budget=48),
    )
    with grown("embedded/target", SIZES[shape] if shape else None) as target:
        config = EngineConfig(
            target,
            stages,
            dtype=arguments.dtype,
            device=arguments.device,
            max_model_len=1024,
            max_running=max(arguments.texts),
            compile=arguments.compile,
        )
        engine = Engine.load(config)
        fixed = engines_of(engine, stages) if arguments.fixed else {}
        for num_texts in arguments.texts:
            rounds: dict[str, list[tuple[float, float]]] = {}
            shares: list[float] = []
            for number in range(arguments.rounds + 1):
                chosen = [
                    prompts[(number * num_texts + place) % len(prompts)]
                    for place in range(num_texts)
                ]
                runs: list[tuple[str, Engine, Speculation]] = [
                    ("plain", engine, "off"),
                    ("auto", engine, "auto"),
                    *((name, each, "always") for name, each in fixed.items()),
                ]
                for name, each, speculation in runs[:: 1 if number % 2 else -1]:
                    is_plain = name == "plain"
                    before = pass_time(engine, chosen, arguments.tokens) if is_plain else 0.0
                    found = run(each, chosen, arguments.tokens, speculation)
                    if not number:  # the first round warms up
                        continue
                    rounds.setdefault(name, []).append(found)
                    if is_plain:
                        after = pass_time(engine, chosen, arguments.tokens)
                        shares.append(found[0] / num_texts * (before + after) / 2e3)
            for name, found in rounds.items():
                low, rate, high = quartiles([rate for rate, _ in found])
                pairs = zip(found, rounds["plain"], strict=True)
                yield Load(
                    shape,
                    num_texts,
                    name,
                    rate,
                    (low, high),
                    statistics.median(tokens for _, tokens in found),
                    quartiles([mine / plain for (mine, _), (plain, _) in pairs]),
                    statistics.median(shares) if name == "plain" else None,
                )


def pass_time(engine: Engine, prompts: Sequence[tuple[int, ...]], num_tokens: int) -> float:
    """Milliseconds of a pass of the target over a row of each text, half of it written: the median.

    It reads the rows of all these texts, as a step of them does. The pass alone is timed.
    """
    target = engine.scorers["target"]
    texts = [
        Tokens([*prompt, *prompt[: num_tokens // 2]], seat) for seat, prompt in enumerate(prompts)
    ]
    tree = TokenTree(*[text.tokens[-1] for text in texts])
    target.score(texts, tree)
    with timed(target) as times:
        for _ in range(_NUM_PASSES):
            target.strips.rollback()
            target.score(texts, tree)
    target.strips.rollback()
    return statistics.median(times)


@contextmanager
def timed(scorer: TreeScorer) -> Iterator[list[float]]:
    """The milliseconds of every pass that the scorer runs meanwhile, the host's work left out."""
    times: list[float] = []
    runner, run = scorer.runner, scorer.runner.run

    def run_timed(*given: Any) -> tuple[torch.Tensor, ...]:
        started = time.perf_counter()
        outputs = run(*given)
        scorer.wait()
        times.append((time.perf_counter() - started) * 1e3)
        return outputs

    with patch.object(runner, "run", run_timed):
        yield times


def quartiles(figures: Sequence[float]) -> tuple[float, float, float]:
    """The first, the median and the third."""
    ordered = sorted(figures)
    quarter = len(ordered) // 4
    return ordered[quarter], statistics.median(ordered), ordered[-1 - quarter]


def prompts_of(path: Path | None, count: int = 32, length: int = 256) -> list[tuple[int, ...]]:
    """Prompts of a file, or the beginnings of our own sources: tokens, `length` at the most."""
    if path is not None:
        return [prompt[-length:] for prompt in read_prompts(path, count, "embedded/target")]
    tokenizer = load_tokenizer("embedded/target")
    sources = sorted(Path(__file__).parent.parent.glob("engine/**/*.py"))
    texts = [tuple(tokenizer.encode(source.read_text())) for source in sources]
    return [text[:length] for text in texts if len(text) >= length][:count]


def main() -> None:
    """Measure, print a line for each, and keep all if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--shapes", type=_numbers, default=[0])
    parser.add_argument("--texts", type=_numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", choices=("wait", "cached", "never"), default="wait")
    parser.add_argument("--fixed", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    prompts = prompts_of(arguments.prompts)
    loads: list[Load] = []
    for shape in arguments.shapes:
        for load in measure(shape, arguments, prompts):
            loads.append(load)
            low, ratio, high = load.ratio
            told = f"{ratio:.2f}x plain ({low:.2f}-{high:.2f})"
            if load.share is not None:
                told = f"{load.share:.2f} of its passes"
            print(
                f"{load.shape or 'embedded':>8}  {load.num_texts:2} texts  {load.mode:20} "
                f"{load.rate:7.0f} tokens/s ({load.quartiles[0]:.0f}-{load.quartiles[1]:.0f})  "
                f"{load.tokens_per_step:5.2f} a step  {told}",
                flush=True,
            )
    if arguments.json:
        told = {"machine": machine(), "loads": [asdict(load) for load in loads]}
        arguments.json.write_text(json.dumps(told, indent=2))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
