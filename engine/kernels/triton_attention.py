"""Attention of a tree's rows over a cache on a GPU; `triton_programs.py` says how it is computed.

Where texts lie in the cache is told in the device's memory and the tree's mask is bits, so one
recorded launch serves texts of any length. Triton is imported when the first attention is computed.
"""

import math
from functools import cache, lru_cache
from typing import NamedTuple, cast

import torch
from torch import Tensor

from engine.kernels.proof import holds
from engine.kernels.sight import Sight

_LOG2_E = 1.4426950408889634


class Launch(NamedTuple):
    """How attention of some shape is spread over a device."""

    block: int
    """(row, head) pairs that one program takes."""
    num_blocks: int
    """Blocks for each key head."""
    tile: int
    """Cache rows that a program reads at once."""
    num_parts: int
    """Parts of the cache, the rows behind the prefix being the first of them."""
    num_warps: int
    num_stages: int


def is_usable() -> bool:
    """Whether the GPU of this process computes by this kernel what it should; tried once."""
    return holds(check, "attention is torch's own")


def check(device: str) -> None:
    """Raise ValueError unless attention is right there, or whatever Triton raises."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 5, 64, generator=generator).to(device)
    keys, values = torch.randn(2, 1, 2, 60, 64, generator=generator).to(device)
    # Two texts: the second, of the last row alone, begins behind the first.
    mask = torch.ones(5, 55, dtype=torch.bool).tril(40)
    mask[4] = torch.arange(55) >= 44
    bits = torch.tensor([[1], [3], [7], [15], [1]], dtype=torch.uint8)
    places = torch.tensor([[40, 41, 42, 43, 10], [0, 0, 0, 0, 44], [40, 40, 40, 40, 54]])
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, keys[:, :, :55], values[:, :, :55], attn_mask=mask.to(device), enable_gqa=True
    )
    output = attend(query, keys, values, Sight(places.to(device), bits.to(device)))
    if not torch.allclose(output, expected.transpose(1, 2), rtol=1e-3, atol=1e-3):
        raise ValueError("its attention is wrong")


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sight: Sight,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of (1, heads, rows, size) over a whole cache: (1, rows, heads, value size).

    Keys and values are (1, key heads, capacity, size), of the query's precision; each key head
    serves as many heads, in order. Unused rows must be finite. The last dimension of everything
    is contiguous.

    A row that sees nothing is zeros; what is wrong in a row's `places` is only its own text's.
    With a window, bits must hold it already. Scores are `softcap` * tanh(scores / softcap) if it is
    given; `sinks`, (heads,), are scores that take their share of the softmax for nothing.

    All sums are in float32, and so are products of float32; no factor of those is rounded. A row's
    figures depend on its query, its bits, its position (in a window), how long the text is, and the
    rows that it sees. They depend on no other query, and not on where in the cache the text is, bit
    for bit, among all numbers of rows for which `plan` answers the same; between others, sums are
    rounded differently.

    Nothing waits for the device, and no launch depends on a tensor's contents, so a call can be
    recorded in a CUDA graph once another has compiled it. Raises ValueError if shapes or strides
    are not such.
    """
    _check(query, keys, values, sight)
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    output = _tree_attention(query, keys, values, *sight, scaling, softcap or 0.0, sinks)
    return cast(Tensor, output)


@lru_cache(1024)
def plan(
    rows: int,
    heads: int,
    kv_heads: int,
    capacity: int,
    size: int,
    item_size: int,
    num_processors: int,
) -> Launch:
    """The launch for so many rows; `size` is that of a key or a value, whichever is larger.

    Of the number of rows only the next power of two of (row, head) pairs matters, as long as they
    fit one block. Sizes are such that a program spills no registers (by Triton 3.9, for compute
    capability 9.0) and two of them, one of large blocks, fit a multiprocessor of an H100. Products
    of float32 keep their factors in registers, hence smaller sizes. None was tuned on a GPU.
    """
    padded, is_exact = _padded(size), item_size == 4
    pairs = rows * heads // kv_heads
    largest = min(8192 // padded, 64) if is_exact else min(16384 // padded, 128)
    block = max(min(_power_of_two(pairs), largest), 16)
    num_blocks = -(-pairs // block)
    tile = min(max((2048 if is_exact else 8192) // padded, 16), 64)
    is_small = not is_exact and block * padded <= 64 * 128
    num_programs = num_processors * (2 if is_small else 1)
    num_shares = min(num_programs // (kv_heads * num_blocks) - 1, -(-capacity // tile))
    return Launch(
        block,
        num_blocks,
        tile,
        num_parts=1 + max(num_shares, 1),
        num_warps=8 if block == 128 or is_exact else 4,
        num_stages=2 if is_small and block == 64 else 3,
    )


def _check(query: Tensor, keys: Tensor, values: Tensor, sight: Sight) -> None:
    """Raise ValueError unless these belong together and lie in memory as the programs read them."""
    _, heads, rows, size = query.shape
    _, kv_heads, capacity, key_size = keys.shape
    if heads % kv_heads:
        raise ValueError(f"{heads} heads over {kv_heads} key heads")
    if size != key_size or values.shape[1:3] != (kv_heads, capacity):
        shapes = ", ".join(str(tuple(each.shape)) for each in (query, keys, values))
        raise ValueError(f"shapes of query, keys and values differ: {shapes}")
    if not query.shape[0] == keys.shape[0] == values.shape[0] == 1:
        raise ValueError("texts are side by side in one cache, and not a batch")
    if sight.visible.shape[:-1] != (rows,) or sight.places.shape != (3, rows):
        shapes = f"{tuple(sight.visible.shape)} and places of {tuple(sight.places.shape)}"
        raise ValueError(f"{rows} queries have masks of shape {shapes}")
    given = (query, keys, values, sight.visible, sight.places)
    if any(each.stride(-1) != 1 and each.shape[-1] > 1 for each in given):
        raise ValueError("the last dimension must be contiguous")


@torch.library.custom_op("stagetree::tree_attention_triton", mutates_args=())
def _tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Tensor,
    visible: Tensor,
    window: int,
    scaling: float,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor:
    """The operator below `attend`: every default is filled in, and a softcap of 0 is none."""
    from engine.kernels import triton_programs as programs

    _, heads, rows, size = query.shape
    _, kv_heads, capacity, value_size = values.shape
    group = heads // kv_heads
    item_size = query.element_size()
    launch = plan(
        rows,
        heads,
        kv_heads,
        capacity,
        max(size, value_size),
        item_size,
        _num_processors(query.device),
    )
    sums = query.new_empty(2, launch.num_parts, rows, heads, dtype=torch.float32)
    outputs = query.new_empty(launch.num_parts, rows, heads, value_size, dtype=torch.float32)
    result = query.new_empty(1, rows, heads, value_size)
    num_bytes = visible.shape[1]
    # A block may begin and end in the middle of a row's heads.
    scanned_rows = _power_of_two(-(-launch.block // group) + (launch.block % group > 0))
    scale = scaling * _LOG2_E * (2 / softcap if softcap else 1)
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        programs.attend_parts[launch.num_blocks * kv_heads, launch.num_parts](
            query,
            keys,
            values,
            places,
            visible,
            *sums,
            outputs,
            *query.stride()[1:3],
            *keys.stride()[1:3],
            *values.stride()[1:3],
            places.stride(0),
            visible.stride(0),
            rows,
            heads,
            capacity,
            num_bytes,
            window,
            launch.num_blocks,
            scale,
            softcap * _LOG2_E,
            SIZE=size,
            VALUE_SIZE=value_size,
            GROUP=group,
            HAS_WINDOW=window > 0,
            HAS_CAP=softcap > 0,
            BLOCK=launch.block,
            TILE=launch.tile,
            PADDED_SIZE=_padded(size),
            PADDED_VALUE_SIZE=_padded(value_size),
            SCANNED_ROWS=scanned_rows,
            SCANNED_BYTES=min(_power_of_two(num_bytes), 4096 // scanned_rows),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            enable_fp_fusion=True,
        )
        programs.combine_parts[(rows * heads,)](
            *sums,
            outputs,
            sinks,
            result,
            launch.num_parts,
            HEADS=heads,
            VALUE_SIZE=value_size,
            HAS_SINKS=sinks is not None,
            PADDED_VALUE_SIZE=_padded(value_size),
            PADDED_PARTS=_power_of_two(launch.num_parts),
            PARTS_AT_ONCE=min(_power_of_two(launch.num_parts), 16),
            num_warps=4,
            enable_fp_fusion=True,
        )
    return result


@_tree_attention.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, *rest: object) -> Tensor:
    _, heads, rows, _ = query.shape
    return query.new_empty(1, rows, heads, values.shape[-1])


@cache
def _num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; without one a few, so that Triton's interpreter has some parts."""
    if device.type != "cuda":
        return 6
    return torch.cuda.get_device_properties(device).multi_processor_count


def _padded(size: int) -> int:
    """A head's size as products want it: a power of two, 16 or more."""
    return max(_power_of_two(size), 16)


def _power_of_two(number: int) -> int:
    """The least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()
