"""The programs of `triton_dots`, which alone imports this file: Triton may be missing.

`round_rows` brings inputs to 8 bits, group by group of a row, as `Integers::arrange` of
`integers.h` does. `multiply_rows` sums a group's products up as integers, which no order changes,
and an output is one chain of fused multiply-adds over groups, whatever the number of rows: the
figures are those of the kernels for CPUs, to the bit.

A fused rounding would be another one: programs are compiled without fusing what is not told to be.
"""

import triton
import triton.language as tl

GROUP = tl.constexpr(32)
_SHIFT = tl.constexpr(12582912.0)
"""What it is added to is rounded to whole numbers, 1.5 * 2**23."""
_INFINITE = tl.constexpr(0x7F800000)
"""The bits of a number, but for its sign, that is not finite: these or more."""


@triton.jit
def round_rows(
    inputs: tl.tensor,  # (rows, size)
    codes: tl.tensor,  # (groups, rows, GROUP)
    scales: tl.tensor,  # (groups, rows)
    masses: tl.tensor,  # (groups, rows): what a minimum of 1 adds
    size: int,
    groups: int,
    BLOCK: tl.constexpr,
) -> None:
    """Codes of 127 at most; a group that is not finite has no number for its scale.

    The grid is (rows, blocks of groups).
    """
    row, rows = tl.program_id(0), tl.num_programs(0)
    group = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    given = tl.load(inputs + row.to(tl.int64) * size + place, mask=place < size, other=0.0)
    # As numbers, bits are in the order of what they mean, and what is no number comes last.
    most = tl.max(given.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)
    largest = most.to(tl.float32, bitcast=True)
    is_finite = most < _INFINITE
    is_something = is_finite & (largest > 1e-30)
    inverse = tl.div_rn(127.0, tl.where(is_something, largest, 1.0))
    near = (given * inverse[:, None] + _SHIFT) - _SHIFT
    code = tl.where(is_something[:, None], near, 0.0).to(tl.int32)
    scale = tl.where(is_finite, tl.div_rn(largest, 127.0), float("nan"))
    is_group = group < groups
    slot = group * rows + row
    of_code = slot.to(tl.int64)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(codes + of_code, code.to(tl.int8), mask=is_group[:, None])
    tl.store(scales + slot, scale, mask=is_group)
    tl.store(masses + slot, scale * tl.sum(code, 1).to(tl.float32), mask=is_group)


@triton.jit(do_not_specialize=["rows"])
def multiply_rows(
    codes: tl.tensor,  # (groups, rows, GROUP)
    scales: tl.tensor,  # (groups, rows)
    masses: tl.tensor,  # (groups, rows)
    values: tl.tensor,  # (groups, out, GROUP), or a half of that: two codes a byte
    halves: tl.tensor,  # (scales and then minima, quads of groups, out, 4)
    output: tl.tensor,  # (rows, out)
    rows: int,
    out: int,
    groups: int,
    HAS_MINIMA: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A block of outputs of some rows; the grid is (blocks of outputs, blocks of rows).

    Sums of four groups wait for none before them, and their scales are read together.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_place, is_row = place < out, row < rows
    quads = tl.cdiv(groups, 4)
    total = tl.zeros([BLOCK, ROWS], tl.float32)
    for quad in range(0, quads):
        of_weights = _load_four(halves, quad * out + place, is_place, BLOCK)
        least = of_weights
        if HAS_MINIMA:
            least = _load_four(halves, (quads + quad) * out + place, is_place, BLOCK)
        for each in tl.static_range(4):
            group = quad * 4 + each
            slot, own = group * rows + row, group * out + place
            is_in = is_row & (slot < groups * rows)
            weight = _load_codes(values, own, is_place & (own < groups * out), HAS_MINIMA)
            code = tl.load(
                codes + slot.to(tl.int64)[None, :] * GROUP + tl.arange(0, GROUP)[:, None],
                mask=is_in[None, :],
                other=0,
            )
            of_inputs = tl.load(scales + slot, mask=is_in, other=0.0)
            scale = of_weights[each][:, None] * of_inputs[None, :]
            total = tl.fma(tl.dot(weight, code, out_dtype=tl.int32).to(tl.float32), scale, total)
            if HAS_MINIMA:
                mass = tl.load(masses + slot, mask=is_in, other=0.0)
                total = tl.fma(
                    tl.broadcast_to(least[each][:, None], [BLOCK, ROWS]),
                    tl.broadcast_to(mass[None, :], [BLOCK, ROWS]),
                    total,
                )
    target = output + row.to(tl.int64)[None, :] * out + place[:, None]
    tl.store(target, total, mask=is_place[:, None] & is_row[None, :])


@triton.jit
def _load_four(
    halves: tl.tensor, place: tl.tensor, mask: tl.tensor, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Four numbers of half precision of each output, in float32: (outputs,) each."""
    four = tl.load(
        halves + place.to(tl.int64)[:, None] * 4 + tl.arange(0, 4)[None, :],
        mask=mask[:, None],
        other=0.0,
    )
    even, odd = tl.split(tl.reshape(four.to(tl.float32), [BLOCK, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _load_codes(
    values: tl.tensor, place: tl.tensor, mask: tl.tensor, IS_HALVED: tl.constexpr
) -> tl.tensor:
    """The codes of a group of some outputs: (outputs, GROUP) of int8."""
    if IS_HALVED:
        byte = place.to(tl.int64)[:, None] * (GROUP // 2) + tl.arange(0, GROUP // 2)[None, :]
        both = tl.load(values + byte, mask=mask[:, None], other=0)
        codes = tl.interleave((both & 15).to(tl.int8), (both >> 4).to(tl.int8))
    else:
        whole = place.to(tl.int64)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        codes = tl.load(values + whole, mask=mask[:, None], other=0)
    return codes
