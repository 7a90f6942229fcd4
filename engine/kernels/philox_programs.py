"""The programs of `triton_noise`, which alone imports this file: Triton may be missing.

Philox-4x64-10 and Gumbel variates, bit by bit as `engine.noise` describes them. Every program reads
the seed and the position of its row from memory.
"""

import triton
import triton.language as tl


@triton.jit
def noise_of_tokens(
    seeds: tl.tensor,  # (rows,), or (1,) and no stride
    seed_stride: int,
    positions: tl.tensor,  # (rows,)
    tokens: tl.tensor,  # (rows, num_tokens)
    noise: tl.tensor,  # (rows, num_tokens)
    num_tokens: int,
    BLOCK: tl.constexpr,
) -> None:
    """The noise of a row's tokens; the grid is (rows, blocks of tokens)."""
    row = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_token = place < num_tokens
    token = tl.load(tokens + row * num_tokens + place, mask=is_token, other=0)
    w0, w1, w2, w3 = philox(
        token // 4 + 1, tl.load(positions + row), tl.load(seeds + row * seed_stride)
    )
    word = token % 4
    bits = tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))
    tl.store(noise + row * num_tokens + place, gumbel(bits), mask=is_token)


@triton.jit
def noise_of_rows(
    seeds: tl.tensor,  # (rows,), or (1,) and no stride
    seed_stride: int,
    positions: tl.tensor,  # (rows,)
    noise: tl.tensor,  # (rows, vocab_size)
    vocab_size: int,
    BLOCK: tl.constexpr,
) -> None:
    """The noise of whole rows; the grid is (rows, blocks of four tokens each)."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    w0, w1, w2, w3 = philox(
        block.to(tl.int64) + 1, tl.load(positions + row), tl.load(seeds + row * seed_stride)
    )
    place = noise + row * vocab_size + block * 4
    left = vocab_size - block * 4
    tl.store(place, gumbel(w0), mask=left > 0)
    tl.store(place + 1, gumbel(w1), mask=left > 1)
    tl.store(place + 2, gumbel(w2), mask=left > 2)
    tl.store(place + 3, gumbel(w3), mask=left > 3)


@triton.jit
def philox(
    counter: tl.tensor, position: tl.tensor, seed: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The four words of the block at (counter, position, 0, 0) under the key (seed, 0): uint64."""
    c0 = counter.to(tl.uint64)
    zero = c0 ^ c0
    c1 = zero + position.to(tl.uint64)
    c2, c3 = zero, zero
    k0 = zero + seed.to(tl.uint64)
    k1 = zero
    for _ in tl.static_range(10):
        low0, low2 = c0 * 0xD2E7470EE14C6C93, c2 * 0xCA5A826395121157
        high0, high2 = tl.umulhi(c0, 0xD2E7470EE14C6C93), tl.umulhi(c2, 0xCA5A826395121157)
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0 += 0x9E3779B97F4A7C15
        k1 += 0xBB67AE8584CAA73B
    return c0, c1, c2, c3


@triton.jit
def gumbel(bits: tl.tensor) -> tl.tensor:
    """Standard Gumbel variates, float32, of 64-bit words.

    1 - v, a multiple of 2**-53 below 1, is exact, so its logarithm is as good as `log1p(-v)`.
    """
    v = ((bits >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return (-tl.log(-tl.log(1.0 - v))).to(tl.float32)
