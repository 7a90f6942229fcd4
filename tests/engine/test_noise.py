"""The noise: its bits against the published algorithm, its distribution, tail and independence."""

import math

import numpy as np
import pytest
import torch

from engine.noise import NoiseRows, RandomBits, gumbel, noise_rows, noise_values

_WORD = (1 << 64) - 1


def philox4x64_10(counter: list[int], key: list[int]) -> list[int]:
    """Philox-4x64-10 as Salmon et al. state it, in whole numbers."""
    for _ in range(10):
        product0 = 0xD2E7470EE14C6C93 * counter[0]
        product1 = 0xCA5A826395121157 * counter[2]
        counter = [
            (product1 >> 64) ^ counter[1] ^ key[0],
            product1 & _WORD,
            (product0 >> 64) ^ counter[3] ^ key[1],
            product0 & _WORD,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & _WORD, (key[1] + 0xBB67AE8584CAA73B) & _WORD]
    return counter


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (1, 7), (2**63 + 5, 100_000), (-1, 3)])
def test_the_bits_are_philox_of_seed_position_and_token(seed: int, position: int) -> None:
    bits = RandomBits(seed).row(position, 11)
    for token in range(11):
        block = philox4x64_10([1 + token // 4, position, 0, 0], [seed & _WORD, 0])
        assert int(bits[token]) == block[token % 4]


def test_the_bits_do_not_depend_on_the_vocabulary_or_on_what_was_asked_before() -> None:
    rows = NoiseRows(seed=9, vocab_size=100)
    late = rows.row(50)
    for position in range(600):
        rows.row(position)
    assert torch.equal(rows.row(50), late)
    assert torch.equal(NoiseRows(9, 40).row(50), late[:40])
    assert torch.equal(noise_rows([rows] * 3, [50, 51, 50])[2], late)
    some = noise_values([rows] * 2, [50, 51], [[3, 1], [0]])
    assert some.tolist() == [late[3], late[1], rows.row(51)[0]]


def test_every_row_has_the_noise_of_its_own_seed() -> None:
    """Red when the seed of the first row, or its place, is taken for those of others."""
    sources, positions = [NoiseRows(seed, 30) for seed in (4, -4, 4)], [7, 7, 8]
    wanted = [source.row(place) for source, place in zip(sources, positions, strict=True)]
    assert torch.equal(noise_rows(sources, positions), torch.stack(wanted))
    some = noise_values(sources, positions, [[3], [3, 29], [0]]).tolist()
    assert some == [wanted[0][3], wanted[1][3], wanted[1][29], wanted[2][0]]


def test_every_word_gives_finite_noise_and_the_tail_is_resolved() -> None:
    words = np.array([0, 1 << 12, _WORD - (1 << 12), _WORD], dtype=np.uint64)
    values = gumbel(words).tolist()
    assert all(map(math.isfinite, values))
    assert values[0] > values[1] > 30 > -3 > values[2] > values[3]


@pytest.mark.parametrize("count", [1, 3, 58, 1000])
def test_a_few_tokens_have_the_noise_that_they_have_in_their_whole_row(count: int) -> None:
    """Two libraries make it, each where it is the faster; red if one of them rounds otherwise."""
    words = RandomBits(7).row(5, 1 << 16)
    few = [gumbel(part) for part in np.array_split(words, len(words) // count)]
    assert np.array_equal(gumbel(words), np.concatenate(few))


def test_it_is_gumbel_in_the_middle_and_in_the_tail() -> None:
    values = noise_of(3, 0, 1 << 21).double()
    for threshold in (-2.0, -1.0, 0.0, 1.0, 3.0, 6.0, 9.0):
        share = -math.expm1(-math.exp(-threshold))
        deviation = math.sqrt(share * (1 - share) / len(values))
        assert abs((values > threshold).double().mean().item() - share) < 5 * deviation


def test_rare_tokens_win_as_often_as_they_should() -> None:
    """One of two tokens is 100,000 times likelier: coarse noise would never draw the other."""
    rare = math.log(1e-5)
    words = RandomBits(11).row(4, 1 << 22)
    wins = (gumbel(words[::2].copy()) + rare > gumbel(words[1::2].copy())).sum().item()
    expected = (1 << 21) * 1e-5 / (1 + 1e-5)
    assert abs(wins - expected) < 5 * math.sqrt(expected)


def noise_of(seed: int, position: int, size: int) -> torch.Tensor:
    return torch.from_numpy(gumbel(RandomBits(seed).row(position, size)))


def neighbours() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    size = 1 << 16
    base = noise_of(5, 20, size + 4)
    return {
        "seed": (base[:size], noise_of(6, 20, size)),
        "high seed bit": (base[:size], noise_of(5 | 1 << 63, 20, size)),
        "position": (base[:size], noise_of(5, 21, size)),
        "seed for position": (base[:size], noise_of(20, 5, size)),
        "token": (base[:size], base[1 : size + 1]),
        "block of tokens": (base[:size], base[4 : size + 4]),
    }


@pytest.mark.parametrize("name", list(neighbours()))
def test_neighbours_are_independent(name: str) -> None:
    """Correlation, and how often both are large: a shared or shifted stream shows in either."""
    one, other = neighbours()[name]
    correlation = torch.corrcoef(torch.stack([one, other]).double())[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(len(one))
    share = (one > 2).double().mean() * (other > 2).double().mean()
    both = ((one > 2) & (other > 2)).double().mean()
    assert abs(both - share).item() < 5 * math.sqrt(share.item() / len(one))


@pytest.mark.gpu
def test_a_gpu_sees_the_same_bits() -> None:
    assert torch.equal(NoiseRows(5, 5000, "cuda").row(9).cpu(), NoiseRows(5, 5000).row(9))


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (1, 7), (2**63 + 5, 100_000), (-1, 3)])
def test_a_position_has_a_draw_that_no_token_has(seed: int, position: int) -> None:
    """Red when it is another word, depends on what was asked before, or is of another position."""
    word = philox4x64_10([0, position, 0, 0], [seed & _WORD, 0])[0]
    noise = NoiseRows(seed, 40)
    noise.row(position + 1)
    assert noise.draw(position) == (word >> 11) / 2**53
    assert word not in noise.bits(position).tolist()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("seed", "position"), [(0, 0), (1, 7), (2**63 + 5, 100_000), (-1, 3)])
def test_a_kernel_makes_the_bits_of_a_few_tokens_as_whole_rows_have_them(
    seed: int, position: int
) -> None:
    """Red when the kernel counts blocks, words of a block or positions in another way."""
    rows, tokens = NoiseRows(seed, 1000), [999, 0, 3, 4, 5, 501]
    found = rows.bits_of(position, tokens)
    assert found.dtype == np.uint64
    assert found.tolist() == rows.bits(position)[tokens].tolist()
