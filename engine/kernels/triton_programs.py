"""The programs of `triton_attention`, which alone imports this file: Triton may be missing.

`attend_parts` is flash-decoding with the heads of a group packed into one product: every program
takes a block of (row, head) pairs of one key head and a part of the cache, and leaves a running
softmax over that part. `combine_parts` adds the parts of a row up. Arithmetic is in float32 but for
the products, whose factors keep the precision that they have in memory.

Part 0 is the rows behind the prefix, under the packed mask; the others share the prefix evenly.
Where a text begins, and where its parts begin and end, is read from memory, so a launch that was
recorded once holds for all texts of every length. A program goes through the texts of its block one
after another: a tile of another text changes no bit of a row's figures.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
_NO_TEXT = tl.constexpr(2**31 - 1)
"""Where a text would begin that comes after all others."""


@triton.jit(
    do_not_specialize=["places_row_stride", "rows", "capacity", "num_bytes", "window", "num_blocks"]
)
def attend_parts(
    query: tl.tensor,  # (heads, rows, SIZE)
    keys: tl.tensor,  # (key heads, capacity, SIZE)
    values: tl.tensor,  # (key heads, capacity, VALUE_SIZE)
    places: tl.tensor,  # (3, rows)
    visible: tl.tensor,  # (rows, num_bytes)
    maxima: tl.tensor,  # (parts, rows, heads)
    totals: tl.tensor,  # (parts, rows, heads)
    outputs: tl.tensor,  # (parts, rows, heads, VALUE_SIZE)
    query_head_stride: int,
    query_row_stride: int,
    key_head_stride: int,
    key_row_stride: int,
    value_head_stride: int,
    value_row_stride: int,
    places_row_stride: int,
    visible_row_stride: int,
    rows: int,
    heads: int,
    capacity: int,
    num_bytes: int,
    window: int,
    num_blocks: int,
    scale: float,
    cap: float,
    SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    PADDED_VALUE_SIZE: tl.constexpr,
    SCANNED_ROWS: tl.constexpr,
    SCANNED_BYTES: tl.constexpr,
) -> None:
    """The running softmax of a block of queries over one part of the cache.

    The grid is (num_blocks * key heads, parts), blocks of one key head side by side, so that they
    find each other's tiles in the L2 cache.
    """
    block, kv_head = tl.program_id(0) % num_blocks, tl.program_id(0) // num_blocks
    part, num_shares = tl.program_id(1), tl.num_programs(1) - 1
    pair = block * BLOCK + tl.arange(0, BLOCK)
    is_pair = pair < rows * GROUP
    row, head = pair // GROUP, kv_head * GROUP + pair % GROUP
    dims = tl.arange(0, PADDED_SIZE)
    q = tl.load(
        query + head[:, None] * query_head_stride + row[:, None] * query_row_stride + dims[None, :],
        mask=is_pair[:, None] & (dims < SIZE)[None, :],
        other=0.0,
    )
    keys += kv_head.to(tl.int64) * key_head_stride
    values += kv_head.to(tl.int64) * value_head_stride
    is_tree = part == 0
    position = tl.load(places + row, mask=is_pair, other=0).to(tl.int32)
    firsts = tl.load(places + places_row_stride + row, mask=is_pair, other=_NO_TEXT).to(tl.int32)
    prefixes = tl.load(places + 2 * places_row_stride + row, mask=is_pair, other=0).to(tl.int32)
    maximum = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    output = tl.zeros([BLOCK, PADDED_VALUE_SIZE], tl.float32)
    top = block * BLOCK // GROUP
    reach = _reach(
        visible + top * visible_row_stride,
        rows - top,
        tl.where(is_tree, num_bytes, 0),
        visible_row_stride,
        SCANNED_ROWS,
        SCANNED_BYTES,
    )
    first = tl.min(firsts, 0)
    while first < _NO_TEXT:
        is_own = firsts == first
        prefix = tl.max(tl.where(is_own, prefixes, 0), 0)
        # No query is before its prefix's end, so none sees more of it than a root.
        begin = tl.maximum(prefix + 1 - window, first) if HAS_WINDOW else first
        first_row = tl.where(is_tree, prefix, begin)
        num_rows = tl.where(is_tree, tl.minimum(reach, capacity - prefix), prefix - begin)
        num_tiles = tl.cdiv(num_rows, TILE)
        first_tile = tl.where(is_tree, 0, (part - 1) * num_tiles // num_shares)
        end_tile = tl.where(is_tree, num_tiles, part * num_tiles // num_shares)
        own_keys = keys + first_row.to(tl.int64) * key_row_stride
        own_values = values + first_row.to(tl.int64) * value_row_stride
        for tile in range(first_tile, end_tile):
            place = tile * TILE + tl.arange(0, TILE)
            k = _load(own_keys, place, key_row_stride, num_rows, SIZE, PADDED_SIZE)
            v = _load(own_values, place, value_row_stride, num_rows, VALUE_SIZE, PADDED_VALUE_SIZE)
            is_seen = (place < num_rows)[None, :] & is_own[:, None]
            if is_tree:
                packed = tl.load(
                    visible + row[:, None] * visible_row_stride + (place >> 3)[None, :],
                    mask=is_seen,
                    other=0,
                )
                is_seen = (packed.to(tl.int32) >> (place & 7)[None, :]) & 1 != 0
            elif HAS_WINDOW:
                away = position[:, None] - (first_row - first + place)[None, :]
                is_seen = is_seen & (away < window)
            maximum, total, output = _fold(
                maximum, total, output, q, k, v, is_seen, scale, cap, HAS_CAP
            )
        first = tl.min(tl.where(firsts > first, firsts, _NO_TEXT), 0)
    slot = (part.to(tl.int64) * rows + row) * heads + head
    tl.store(maxima + slot, maximum, mask=is_pair)
    tl.store(totals + slot, total, mask=is_pair)
    value_dims = tl.arange(0, PADDED_VALUE_SIZE)
    # A part that saw nothing is not read, and so not written.
    tl.store(
        outputs + slot[:, None] * VALUE_SIZE + value_dims[None, :],
        output,
        mask=(is_pair & (total > 0))[:, None] & (value_dims < VALUE_SIZE)[None, :],
    )


@triton.jit(do_not_specialize=["num_parts"])
def combine_parts(
    maxima: tl.tensor,
    totals: tl.tensor,
    outputs: tl.tensor,
    sinks: tl.tensor,  # (heads,)
    result: tl.tensor,  # (rows, heads, VALUE_SIZE)
    num_parts: int,
    HEADS: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    PADDED_VALUE_SIZE: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
    PARTS_AT_ONCE: tl.constexpr,
) -> None:
    """The softmax of one row and head from its parts; zeros if it saw nothing at all."""
    pair = tl.program_id(0).to(tl.int64)
    num_pairs = tl.num_programs(0)
    part = tl.arange(0, PADDED_PARTS)
    maximum = tl.max(
        tl.load(maxima + part * num_pairs + pair, mask=part < num_parts, other=float("-inf")), 0
    )
    total = 0.0
    if HAS_SINKS:
        sink = tl.load(sinks + pair % HEADS).to(tl.float32) * LOG2_E
        maximum = tl.maximum(maximum, sink)
        total += tl.exp2(sink - maximum)
    base = tl.where(maximum == float("-inf"), 0.0, maximum)
    dims = tl.arange(0, PADDED_VALUE_SIZE)
    output = tl.zeros([PADDED_VALUE_SIZE], tl.float32)
    for start in range(0, num_parts, PARTS_AT_ONCE):
        some = start + tl.arange(0, PARTS_AT_ONCE)
        place = some.to(tl.int64) * num_pairs + pair
        is_part = some < num_parts
        weight = tl.exp2(tl.load(maxima + place, mask=is_part, other=float("-inf")) - base)
        total += tl.sum(weight * tl.load(totals + place, mask=is_part, other=0.0), 0)
        each = tl.load(
            outputs + place[:, None] * VALUE_SIZE + dims[None, :],
            mask=(weight > 0)[:, None] & (dims < VALUE_SIZE)[None, :],
            other=0.0,
        )
        output += tl.sum(weight[:, None] * each, 0)
    output /= tl.where(total == 0, 1.0, total)
    tl.store(
        result + pair * VALUE_SIZE + dims,
        output.to(result.dtype.element_ty),
        mask=dims < VALUE_SIZE,
    )


@triton.jit
def _reach(
    visible: tl.tensor,
    rows: int,
    num_bytes: int,
    row_stride: int,
    SCANNED_ROWS: tl.constexpr,
    SCANNED_BYTES: tl.constexpr,
) -> tl.tensor:
    """How many places behind the prefix the first SCANNED_ROWS rows see at most: whole bytes."""
    row = tl.arange(0, SCANNED_ROWS)
    reach = 0
    for start in range(0, num_bytes, SCANNED_BYTES):
        byte = start + tl.arange(0, SCANNED_BYTES)
        packed = tl.load(
            visible + row[:, None] * row_stride + byte[None, :],
            mask=(row < rows)[:, None] & (byte < num_bytes)[None, :],
            other=0,
        )
        ends = tl.where(packed != 0, (byte * 8 + 8)[None, :], 0)
        reach = tl.maximum(reach, tl.max(tl.max(ends, 1), 0))
    return reach


@triton.jit
def _load(
    cache: tl.tensor,
    place: tl.tensor,
    row_stride: int,
    num_rows: tl.tensor,
    SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
) -> tl.tensor:
    """The cache's rows at these places, zeros from `num_rows` on: (places, PADDED_SIZE)."""
    dims = tl.arange(0, PADDED_SIZE)
    return tl.load(
        cache + place.to(tl.int64)[:, None] * row_stride + dims[None, :],
        mask=(place < num_rows)[:, None] & (dims < SIZE)[None, :],
        other=0.0,
    )


@triton.jit
def _fold(
    maximum: tl.tensor,
    total: tl.tensor,
    output: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    is_seen: tl.tensor,
    scale: float,
    cap: float,
    HAS_CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """A running softmax with one more tile in it, whose exponents are of two.

    A tile of which a row sees nothing changes no bit of that row's figures.
    """
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
    if HAS_CAP:
        power = tl.exp2(-tl.abs(scores))
        tanh = (1 - power) / (1 + power)
        scores = tl.where(scores < 0, -cap, cap) * tanh
    scores = tl.where(is_seen, scores, float("-inf"))
    highest = tl.maximum(maximum, tl.max(scores, 1))
    base = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(scores - base[:, None])
    decay = tl.exp2(maximum - base)
    total = total * decay + tl.sum(weights, 1)
    output = tl.dot(
        weights.to(values.dtype), values, output * decay[:, None], input_precision="ieee"
    )
    return highest, total, output
