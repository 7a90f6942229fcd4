"""Does draft² earn its place? The draft model with and without n-grams below it, pass by pass.

    python benchmarks/draft2.py --prompts FILE.jsonl [--model embedded/target ...]

For every number of draft passes a step may take, τ and the passes taken, at an equal node budget:
draft² pays where it reaches a τ in fewer passes. Counts, not seconds, so a noisy machine will do.
Needs torch and transformers alone.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from engine.api import Engine
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig, StageConfig
from engine.loading import resolve
from engine.request import Finished, GenerateRequest, SamplingParams
from engine.stats import SpeculationStats

SAMPLINGS = (SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, top_k=50))


def measure(
    engine: Engine,
    stages: Sequence[StageConfig],
    prompts: Sequence[tuple[int, ...]],
    sampling: SamplingParams,
    num_tokens: int,
) -> SpeculationStats:
    """The fold of all steps of all prompts, with a look-up that starts empty."""
    engine = engine.with_stages(stages)
    total = SpeculationStats()
    for index, prompt in enumerate(prompts):
        seeded = replace(sampling, seed=index)
        request = GenerateRequest(str(index), prompt, num_tokens, seeded, speculation="always")
        for item in engine.generate(request):
            if not isinstance(item, Finished) and item.stats.stages:
                total.add(item.stats)
    return total


def main() -> None:
    """Print a table and, if asked, write it as JSON."""
    arguments = _parser().parse_args()
    ngram = NgramStageConfig(table=arguments.table, budget=arguments.guesses)
    draft = ModelStageConfig(model=arguments.draft, budget=arguments.budget)
    engine = Engine.load(
        EngineConfig(model=arguments.model, stages=(draft, ngram), dtype="float32")
    )
    tokenizer = Tokenizer.from_file(f"{resolve(arguments.model)}/tokenizer.json")
    lines = arguments.prompts.read_text(encoding="utf-8").splitlines()[: arguments.num_prompts]
    prompts = [tuple(tokenizer.encode(json.loads(line)["prompt"]).ids) for line in lines]
    rows: list[dict[str, float | str]] = []
    print(f"{'T':>3} {'limit':>5}   {'draft alone':>22}   {'draft over n-grams':>22}   confirmed")
    for sampling in SAMPLINGS:
        for passes in range(1, arguments.passes + 1):
            stage = replace(draft, passes=passes)
            row: dict[str, float | str] = {"temperature": sampling.temperature, "limit": passes}
            for name, stages in (("alone", (stage,)), ("staged", (stage, ngram))):
                stats = measure(engine, stages, prompts, sampling, arguments.num_tokens)
                row[f"{name}_acceptance_length"] = stats.mean_acceptance_length
                row[f"{name}_passes"] = stats.stages["draft"].num_passes / stats.num_steps
                if name == "staged":
                    guesses = stats.stages["ngram"]
                    row["confirmed"] = guesses.num_confirmed / max(1, guesses.num_guesses)
            rows.append(row)
            print(
                f"{sampling.temperature:3.0f} {passes:5d}"
                f"   τ {row['alone_acceptance_length']:.2f} in {row['alone_passes']:.2f} passes"
                f"   τ {row['staged_acceptance_length']:.2f} in {row['staged_passes']:.2f} passes"
                f"   {row['confirmed']:.0%}",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--prompts", type=Path, required=True, help='a file of {"prompt": "..."}, one a line')
    add("--num-prompts", type=int, default=20)
    add("--num-tokens", type=int, default=64)
    add("--model", default="embedded/target")
    add("--draft", default="embedded/draft")
    add("--table", default="embedded/draft2")
    add("--budget", type=int, default=32, help="draft nodes in the tree")
    add("--guesses", type=int, default=8, help="nodes that the n-grams guess before each pass")
    add("--passes", type=int, default=6, help="measure limits from 1 to this many draft passes")
    add("--json", type=Path, help="also write the figures here")
    return parser


if __name__ == "__main__":
    main()
