"""Does draft² earn its place? A draft model or a head with and without n-grams below it.

    python benchmarks/draft2.py --prompts FILE.jsonl [--draft embedded/head --draft embedded/draft]

For every number of draft passes a step may take: τ, the passes taken and tokens per second, at an
equal node budget. draft² pays where it reaches a τ in fewer passes. Measured as `stagetree bench`
measures: interleaved, the same texts, cut where they begin to repeat themselves. Needs torch and
transformers alone.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from engine.api import Engine
from engine.benchmark import SAMPLINGS, Mode, Result, Workload, compare, machine, read_prompts
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig
from engine.drafting.build import recognised


def modes_of(arguments: argparse.Namespace) -> list[Mode]:
    """Plain, and every drafter at every limit of passes, alone and over n-grams."""
    ngram = NgramStageConfig(table=arguments.table, budget=arguments.guesses)
    modes = [Mode("plain", (), "off")]
    for name in arguments.draft:
        for passes in range(1, arguments.passes + 1):
            plain_kind = ModelStageConfig(name, budget=arguments.budget, passes=passes)
            (drafter,) = recognised([plain_kind])
            modes.append(Mode(f"{name} {passes} alone", (drafter,)))
            modes.append(Mode(f"{name} {passes} staged", (drafter, ngram)))
    return modes


def print_table(results: Sequence[Result]) -> None:
    """One line for each drafter and limit: alone, then over n-grams."""
    print(f"\nT = {results[0].temperature:g}   plain {results[0].tokens_per_second:.0f} tokens/s")
    for alone, staged in zip(results[1::2], results[2::2], strict=True):
        guesses = staged.stages["ngram"]
        confirmed = guesses["num_confirmed"] / max(1, guesses["num_guesses"])
        print(
            f"{alone.mode.removesuffix(' alone'):20} alone {_cells(alone)}"
            f"   over n-grams {_cells(staged)}   guesses confirmed {confirmed:.0%}"
        )


def _cells(result: Result) -> str:
    return (
        f"τ {result.acceptance_length:.2f} in {result.draft_passes_per_step:.2f} passes, "
        f"{result.tokens_per_second:.0f} tokens/s"
    )


def main() -> None:
    """Print a table for each temperature and, if asked, write them as JSON."""
    arguments = _parser().parse_args()
    arguments.draft = arguments.draft or ["embedded/head", "embedded/draft"]
    engine = Engine.load(EngineConfig(model=arguments.model, dtype="float32"))
    prompts = read_prompts(arguments.prompts, arguments.num_prompts, arguments.model)
    results: list[Result] = []
    for sampling in SAMPLINGS:
        workload = Workload(prompts, arguments.tokens, sampling, engine.info.eos_token_ids)
        comparison = compare(engine, modes_of(arguments), workload, arguments.repetitions)
        print_table(comparison.results)
        results += comparison.results
    if arguments.json is not None:
        document = {"machine": machine(), "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(document, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--prompts", type=Path, required=True, help='a file of {"prompt": "..."}, one a line')
    add("--num-prompts", type=int, default=20)
    add("--tokens", type=int, default=64)
    add("--repetitions", type=int, default=1)
    add("--model", default="embedded/target")
    add("--draft", action="append", help="a draft model or a head; repeatable")
    add("--table", default="embedded/draft2")
    add("--budget", type=int, default=32, help="draft nodes in the tree")
    add("--guesses", type=int, default=8, help="nodes that the n-grams guess before each pass")
    add("--passes", type=int, default=4, help="measure limits from 1 to this many draft passes")
    add("--json", type=Path, help="also write the figures here")
    return parser


if __name__ == "__main__":
    main()
