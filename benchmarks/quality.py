"""What a precision takes and what it costs: memory, and the perplexity of texts, of some models.

    python -m benchmarks.quality --model embedded/target smollm2 --prompts prompts.jsonl

Every precision of every model is loaded in a process of its own, over our kernels as a server has
them. `resident` is what the process holds more than before it loaded the model, `peak` the most
that it has ever held, both once the weights are laid out. Perplexity is that of the prompts, and
so is the divergence (Kullback-Leibler, nats a token) of each next token's distribution from that
of float32, with the share of tokens whose most likely next one is the same.
"""

import argparse
import resource
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.divergence import log_probabilities
from engine import kernels
from engine.acceleration.on_cpu import lay_out_for_kernels
from engine.benchmark import machine, read_prompts
from engine.code_cache import cache_root
from engine.loading import load_model
from engine.model import Model

PRECISIONS = ("float32", "bfloat16", "int8", "int4")
_PAGE = resource.getpagesize()


class Figures(NamedTuple):
    """Of one precision: bytes, and what it says of the prompts."""

    resident: int
    peak: int
    perplexity: float
    divergence: float
    agreement: float


def main() -> None:
    """Print a table of each model."""
    arguments = _parse()
    print(machine())
    for model in arguments.model:
        print(f"\n{model}, {arguments.num_prompts} prompts")
        print("| precision | resident, MB | peak, MB | perplexity | divergence | same first |")
        print("|---|--:|--:|--:|--:|--:|")
        for dtype in arguments.dtype:
            with get_context("spawn").Pool(1) as pool:
                given = (model, dtype, arguments.prompts, arguments.num_prompts)
                found = pool.apply(measure, given)
            print(
                f"| {dtype} | {found.resident / 1e6:.0f} | {found.peak / 1e6:.0f} | "
                f"{found.perplexity:.3f} | {found.divergence:.5f} | {found.agreement:.1%} |",
                flush=True,
            )


def measure(name: str, dtype: str, file: Path, num_prompts: int) -> Figures:
    """The figures of one precision, in a process that has done nothing else."""
    torch.set_grad_enabled(False)
    prompts = read_prompts(file, num_prompts, name)
    folder = cache_root() / "passes"
    kernels.build(folder)
    kernels.load(folder)
    before = _resident()
    model = _laid_out(name, dtype)
    held, peak = _resident() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Figures(held, peak, *_quality(model, _laid_out(name, "float32"), prompts))


def _laid_out(name: str, dtype: str) -> Model:
    model = load_model(name, dtype=dtype, device="cpu", max_model_len=1024, chunk=512)
    lay_out_for_kernels({"target": model})
    return model


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _quality(
    model: Model, exact: Model, prompts: Sequence[tuple[int, ...]]
) -> tuple[float, float, float]:
    losses, divergences, agreements = [], [], []
    for prompt in prompts:
        rounded, right = (log_probabilities(each, prompt) for each in (model, exact))
        losses.append(-rounded.gather(1, torch.tensor(prompt[1:])[:, None]))
        divergences.append((right.exp() * (right - rounded)).sum(1))
        agreements.append((right.argmax(1) == rounded.argmax(1)).double())
    means = [float(torch.cat(each).mean()) for each in (losses, divergences, agreements)]
    return float(torch.tensor(means[0]).exp()), means[1], means[2]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", nargs="+", default=["embedded/target", "smollm2"])
    parser.add_argument("--dtype", nargs="+", default=PRECISIONS)
    parser.add_argument(
        "--prompts", type=Path, required=True, help="JSON lines, each with a `prompt`"
    )
    parser.add_argument("--num-prompts", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main()
