"""Milliseconds of a tree's attention on a GPU: our Triton kernel, torch's SDPA and FlexAttention.

    python benchmarks/attention.py --json attention.json

Every row of a binary tree sees the whole text before it and its ancestors. `ours` reads the text's
length and the tree's bits from memory, and so does FlexAttention, compiled and with a block mask
that was made beforehand; SDPA adds a dense mask of the model's precision. Each has its own slice
of the cache as it needs it: ours the whole of it, the others up to the tree's end.

A figure is one layer's, from a recorded CUDA graph that runs all layers, each with a cache of its
own, so that what a layer reads was not read just before; still, short texts of all layers fit the
GPU's second-level cache, where they are read faster than memory allows. Rounds are interleaved.
The share of the bandwidth counts the keys and values of all rows in use, once, against the
bandwidth measured in the same run. What does not agree with SDPA is not timed.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from engine.benchmark import machine, measured_bandwidth
from engine.geometry import MAX_TREE_ROWS
from engine.kernels.sight import Sight
from engine.kernels.triton_attention import attend
from engine.tree import bushy_tree

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

_TOLERANCE = 2e-2
"""How far answers in half precision may be apart, as a share of the largest figure."""
_GRAIN = 128
"""SDPA and FlexAttention read a multiple of so many rows, as aligned masks want it."""


@dataclass(frozen=True, slots=True)
class Heads:
    """A model's attention: query heads, key heads, and the size of each."""

    heads: int
    kv_heads: int
    size: int

    def bytes_read(self, rows: int, item_size: int) -> int:
        """Keys and values of so many rows."""
        return 2 * rows * self.kv_heads * self.size * item_size


MODELS = {"llama-8b": Heads(32, 8, 128), "gpt2-large": Heads(20, 20, 64)}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    model: str
    width: int
    prefix: int

    @property
    def end(self) -> int:
        """Rows of the cache in use."""
        return self.prefix + self.width

    @property
    def length(self) -> int:
        """The same, rounded up."""
        return -(-self.end // _GRAIN) * _GRAIN


def main() -> None:
    """Print a table of all cases; write all figures if asked to."""
    arguments = parse()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/attention.py needs a GPU that torch can use; there is none.")
    torch.manual_seed(0)
    bandwidth = measured_bandwidth("cuda")
    description = {**machine(), "triton": _version("triton"), "bytes_per_second": bandwidth}
    print(f"{description}\n")
    print("| model | width | text | kernel | ms | ± | of bandwidth |")
    print("|---|---|---|---|---|---|---|")
    results = []
    for model in arguments.models:
        layers = _layers(MODELS[model], arguments)
        for prefix in arguments.prefixes:
            for width in arguments.widths:
                case = Case(model, width, prefix)
                for name, samples in _times(case, layers, arguments).items():
                    results.append(
                        _result(case, name, samples, layers[0].element_size(), bandwidth)
                    )
                    print(_row(results[-1]), flush=True)
    if arguments.json:
        document = {"machine": description, "layers": arguments.layers, "results": results}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def kernels(case: Case, dtype: torch.dtype, device: str) -> dict[str, Attention]:
    """The kernels of one case, as functions of query, keys and values: (1, rows, heads, size)."""
    tree = bushy_tree(0, case.width)
    columns = range(case.width)
    rows = tree.ancestor_mask(columns)
    mask = np.array([[row >> column & 1 for column in columns] for row in rows], np.bool_)
    packed = np.zeros((case.width, -(-MAX_TREE_ROWS // 8)), np.uint8)
    packed[:, : -(-case.width // 8)] = np.packbits(mask, axis=1, bitorder="little")
    visible = torch.from_numpy(packed).to(device)
    prefix = torch.tensor([case.prefix], device=device)
    positions = prefix + torch.tensor(tree.depths, device=device)
    first = torch.zeros_like(positions)
    sight = Sight(torch.stack([positions, first, first + prefix]), visible)
    return {
        "ours": lambda query, keys, values: attend(query, keys, values, sight),
        "sdpa": _sdpa(case, mask, dtype, device),
        "flex": _flex(case, prefix, visible),
    }


def _sdpa(case: Case, mask: np.ndarray[Any, Any], dtype: torch.dtype, device: str) -> Attention:
    additive = torch.full((case.width, case.length), float("-inf"))
    additive[:, : case.prefix] = 0
    additive[:, case.prefix : case.end].masked_fill_(torch.from_numpy(mask), 0)
    given = additive[None, None].to(device, dtype)

    def run(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        keys, values = keys[:, :, : case.length], values[:, :, : case.length]
        is_grouped = query.shape[1] != keys.shape[1]
        output = scaled_dot_product_attention(
            query, keys, values, attn_mask=given, enable_gqa=is_grouped
        )
        return output.transpose(1, 2)

    return run


def _flex(case: Case, prefix: Tensor, visible: Tensor) -> Attention:
    num_bytes = visible.shape[1]

    def sees(batch: Tensor, head: Tensor, row: Tensor, place: Tensor) -> Tensor:
        node = place - prefix[0]
        byte = visible[row, (node >> 3).clamp(0, num_bytes - 1)].to(torch.int32)
        return (node < 0) | ((node < num_bytes * 8) & ((byte >> (node & 7)) & 1 != 0))

    block_mask = create_block_mask(
        sees, None, None, case.width, case.length, device=str(visible.device)
    )
    compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)

    def run(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        keys, values = keys[:, :, : case.length], values[:, :, : case.length]
        is_grouped = query.shape[1] != keys.shape[1]
        output = compiled(query, keys, values, block_mask=block_mask, enable_gqa=is_grouped)
        return output.transpose(1, 2)

    return run


def _layers(heads: Heads, arguments: argparse.Namespace) -> Tensor:
    """Keys and values of every layer: (layers, 2, 1, key heads, capacity, size)."""
    capacity = max(arguments.prefixes) + MAX_TREE_ROWS
    capacity = -(-capacity // _GRAIN) * _GRAIN
    shape = (arguments.layers, 2, 1, heads.kv_heads, capacity, heads.size)
    return torch.randn(shape, dtype=getattr(torch, arguments.dtype), device="cuda")


def _times(case: Case, layers: Tensor, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of one layer by kernel, a sample for each round."""
    torch.compiler.reset()
    heads = MODELS[case.model]
    query = torch.randn(
        1, case.width, heads.heads, heads.size, dtype=layers.dtype, device="cuda"
    ).transpose(1, 2)
    graphs = _graphs(kernels(case, layers.dtype, "cuda"), query, layers)
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(arguments.rounds):
        for name, graph in graphs.items():
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            graph.replay()
            started.record()
            graph.replay()
            ended.record()
            ended.synchronize()
            times[name].append(started.elapsed_time(ended) / len(layers))
    return times


def _graphs(
    each: Mapping[str, Attention], query: Tensor, layers: Tensor
) -> dict[str, torch.cuda.CUDAGraph]:
    """A recorded pass through all layers for every kernel that works and agrees with SDPA."""
    expected = each["sdpa"](query, *layers[0]).float()
    graphs = {}
    for name, kernel in each.items():
        try:
            output = kernel(query, *layers[0]).float()
            error = ((output - expected).abs().max() / expected.abs().max()).item()
            if error > _TOLERANCE:
                raise ValueError(f"differs from SDPA by {error:.3f} of the largest figure")
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for layer in layers:
                    kernel(query, *layer)
            graphs[name] = graph
        except Exception as error:  # what a compiler or a kernel of another version may raise
            reason = str(error).strip().partition("\n")[0]
            print(f"{name} is left out: {type(error).__name__}: {reason}")
    return graphs


def _result(
    case: Case, kernel: str, samples: Sequence[float], item_size: int, bandwidth: float
) -> dict[str, Any]:
    """One kernel's figures in one case."""
    median = statistics.median(samples)
    low, _, high = statistics.quantiles(samples, n=4)
    num_bytes = MODELS[case.model].bytes_read(case.end, item_size)
    return {
        "model": case.model,
        "width": case.width,
        "prefix": case.prefix,
        "kernel": kernel,
        "median_ms": median,
        "half_quartile_range_ms": (high - low) / 2,
        "share_of_bandwidth": num_bytes / (median * 1e-3) / bandwidth,
    }


def _row(result: Mapping[str, Any]) -> str:
    return (
        f"| {result['model']} | {result['width']} | {result['prefix']} | {result['kernel']} "
        f"| {result['median_ms']:.4f} | {result['half_quartile_range_ms']:.4f} "
        f"| {result['share_of_bandwidth']:.0%} |"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `arguments`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--widths", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--prefixes", nargs="+", type=int, default=[256, 2048, 8192, 32768])
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--layers", type=int, default=16, help="caches, each read in its turn")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
