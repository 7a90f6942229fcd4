"""`python -m engine.training`: make the embedded family, or continue where the last run stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from engine.training.corpus import read_prompts
from engine.training.family import DRAFT_LENGTHS, DRAFT_SHAPE, TARGET_SHAPE, Family, FamilyPlan
from engine.training.pretrain import Recipe
from engine.training.sample import SamplePlan


def main() -> None:
    """Train, count, measure and write the family to a folder."""
    arguments = _parser().parse_args()
    console = Console(highlight=False, log_path=False)
    family = Family(_plan(arguments), arguments.work, console.log)
    family.export(arguments.out, _command(arguments))
    console.log(f"the family is in {arguments.out}")


def _plan(arguments: argparse.Namespace) -> FamilyPlan:
    prompts = read_prompts(arguments.exclude_prompts) if arguments.exclude_prompts else []
    return FamilyPlan(
        target=Recipe(arguments.target_minutes, is_compiled=arguments.compile),
        draft=Recipe(arguments.draft_minutes, lengths=DRAFT_LENGTHS, is_compiled=arguments.compile),
        samples=SamplePlan(arguments.sample_tokens),
        target_shape=TARGET_SHAPE,
        draft_shape=DRAFT_SHAPE,
        prompts=tuple(prompts),
    )


def _command(arguments: argparse.Namespace) -> str:
    """The command that makes the same family anywhere: what was asked for, without local paths."""
    words = [
        "python -m engine.training --out engine/embedded",
        f"--target-minutes {arguments.target_minutes:g}",
        f"--draft-minutes {arguments.draft_minutes:g}",
        f"--sample-tokens {arguments.sample_tokens}",
    ]
    if arguments.exclude_prompts:
        words.append("--exclude-prompts PROMPTS.jsonl")
    return " ".join([*words, *(["--compile"] if arguments.compile else [])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.training",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder that receives the family")
    add("--work", type=Path, default=Path("build/family"), help="folder of checkpoints")
    add("--target-minutes", type=float, default=45.0, help="training time of the target")
    add("--draft-minutes", type=float, default=17.0, help="training time of the draft")
    add("--sample-tokens", type=int, default=1_000_000, help="tokens sampled for the table")
    add("--exclude-prompts", type=Path, help="JSONL whose `prompt`s must not be trained on")
    add("--compile", action="store_true", help="compile the training pass; needs a C++ compiler")
    return parser


if __name__ == "__main__":
    main()
