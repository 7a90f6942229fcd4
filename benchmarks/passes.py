"""Milliseconds of one pass of the target and of its drafters by number of rows, and the floor.

    python benchmarks/passes.py --json passes.json
    python benchmarks/passes.py --dtype float32 bfloat16 int8 --forms compiled
    python benchmarks/passes.py --device cuda --model MODEL --draft DRAFT --head ""

Every network in several forms, interleaved. `stock`: the network as it was loaded. On a CPU also
`eager`, with weights laid out by oneDNN, and `compiled`, with our kernels; on a GPU `captured`, as
CUDA graphs. A pass is timed as the engine runs it, from lists of tokens to logits, and a GPU is
waited for. Of several precisions each form is timed in all of them. The floor is the bytes of the
weights of the last, as the kernels keep them, over the bandwidth that
this device reads its memory with, measured in the same run: what beats it has found weights in a
cache.
"""

import argparse
import json
import random
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine import attention, kernels
from engine.acceleration import OnGpu, run_by
from engine.benchmark import WIDTHS, machine, measured_bandwidth, pass_times
from engine.code_cache import cache_root
from engine.config import Dtype, EngineConfig
from engine.drafting.build import StageBuilder
from engine.loading import choose_device, load_model
from engine.model import Model
from engine.passes import CompiledRunner, CudaRecorder
from engine.rows import Tokens
from engine.scorer import TreeScorer
from engine.tree import TokenTree
from engine.weights import bytes_read, lay_out

FORMS = {"cpu": ("stock", "eager", "compiled"), "cuda": ("stock", "captured")}
"""By the type of the device."""

MISSING = {
    "compiled": "no packages are cached: `stagetree bench` makes them",
    "captured": "they cannot be captured",
}
"""Why passes are not in a form that they should be in."""


def main() -> None:
    """Print a table for each network; write all figures if asked to."""
    arguments = _parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    random.seed(0)
    device = choose_device(arguments.device)
    kinds = [form for form in FORMS[device.type] if form in (arguments.forms or FORMS[device.type])]
    pairs = [(form, dtype) for form in kinds for dtype in arguments.dtype]
    forms = {" ".join(pair).removesuffix(" auto"): _scorers(arguments, *pair) for pair in pairs}
    times = _times(forms, arguments.context, arguments.rounds)
    bandwidth = measured_bandwidth(str(device))
    document: dict[str, Any] = {
        "machine": machine(),
        "context": arguments.context,
        "bytes_per_second": bandwidth,
        "networks": {},
    }
    print(f"{machine()}")
    print(f"{arguments.context} tokens of text; memory is read at {bandwidth / 1e9:.1f} GB/s")
    for name, scorer in list(forms.values())[-1].items():
        num_bytes = bytes_read(scorer.network)
        floor = 1e3 * num_bytes / bandwidth
        print(f"\n{name}: {num_bytes / 1e6:.1f} MB of weights a pass, floor {floor:.2f} ms")
        print(f"{'rows':>18}" + "".join(f"{width:>14}" for width in WIDTHS) + "   1 row / floor")
        figures = {form: [times[form, name, width] for width in WIDTHS] for form in forms}
        for form, samples in figures.items():
            kind = form.partition(" ")[0]
            if kind in MISSING and forms[form][name].runner.form != kind:
                print(f"{form:>18}  {MISSING[kind]}")
                continue
            cells = "".join(f"{_median(each):>8.2f} ±{_spread(each):<4.2f}" for each in samples)
            print(f"{form:>18}{cells}   {_median(samples[0]) / floor:.2f}")
        document["networks"][name] = {
            "weight_bytes": num_bytes,
            "floor_ms": floor,
            "median_ms": {form: list(map(_median, each)) for form, each in figures.items()},
            "half_quartile_range_ms": {form: list(map(_spread, e)) for form, e in figures.items()},
        }
    if arguments.json:
        arguments.json.write_text(json.dumps({"widths": WIDTHS, **document}, indent=2) + "\n")


def _scorers(arguments: argparse.Namespace, form: str, dtype: Dtype) -> dict[str, TreeScorer]:
    """The target and its drafters in one form and precision, each after the same text."""
    config = EngineConfig(arguments.model, dtype=dtype, device=arguments.device)
    builder = StageBuilder(config, target := _target(config))
    scorers: dict[str, TreeScorer] = {"target": target}
    if arguments.draft:
        scorers["draft"] = builder.model(arguments.draft)
    if arguments.head:
        target = _target(config)
        head = StageBuilder(config, target).head(arguments.head)
        target.keep_features(head.layers_read)
        _read(target, arguments.context)
        scorers["head"] = head
    if form == "captured":
        waiting = replace(config, compile="wait")
        OnGpu(waiting, scorers, CudaRecorder()).settle(lambda phase: None)
    for scorer in scorers.values():
        if form == "eager":
            lay_out(scorer.network, has_kernels=False)
        if form == "compiled" and kernels.load(folder := cache_root() / "passes"):
            lay_out(scorer.network, has_kernels=True)
            attention.use(scorer.network, attention.CPU_KERNEL)
            run_by(scorer, CompiledRunner).take_package(folder)
    return scorers


def _target(config: EngineConfig) -> Model:
    return load_model(
        config.model, dtype=config.dtype, device=config.device, max_model_len=None, chunk=512
    )


def _text(length: int) -> list[int]:
    return [token % 997 for token in range(length)]


def _read(scorer: TreeScorer, length: int) -> None:
    """Give a scorer the rows of a text and of its last token."""
    text = Tokens(_text(length))
    tree = TokenTree(text.tokens[-1])
    scorer.score([text], tree)
    scorer.commit([text], tree, [[0]])


def _times(
    forms: Mapping[str, Mapping[str, TreeScorer]], length: int, num_rounds: int
) -> dict[tuple[str, str, int], list[float]]:
    """Milliseconds by form, network and rows, a sample for each round."""
    times: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(num_rounds):
        for form, scorers in forms.items():
            for (name, width), sample in pass_times(scorers, _text(length), WIDTHS).items():
                times.setdefault((form, name, width), []).append(sample)
    return times


def _median(samples: list[float]) -> float:
    return statistics.median(samples)


def _spread(samples: list[float]) -> float:
    """Half the distance between the quartiles."""
    low, _, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="embedded/target")
    parser.add_argument("--draft", default="embedded/draft", help="empty for none")
    parser.add_argument("--head", default="embedded/head", help="empty for none")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or auto for a GPU if any")
    parser.add_argument("--dtype", nargs="+", default=["auto"], help="one precision or several")
    parser.add_argument("--forms", nargs="+", help="of the three; all if left out")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the number to torch")
    parser.add_argument("--context", type=int, default=256, help="tokens before the pass")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
