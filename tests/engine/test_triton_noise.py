"""The noise kernel against the host's: by Triton's interpreter, or on a GPU if there is one.

Whether it compiles for a GPU that is not there is asked of Triton's compiler.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from engine import noise as host
from engine.kernels import proof, triton_noise
from engine.kernels.triton_noise import noise_of, noise_rows
from engine.noise import NoiseRows, RandomBits
from engine.noise import noise_of as noise_on_the_host

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEEDS = [0, 5, -1, 2**62 + 7, -(2**63)]
POSITIONS = torch.tensor([0, 7, 100_000])
LAST_PLACE = 4e-6
"""Variates lie between -4 and 37, where neighbouring figures of float32 are so far apart."""


def whole_rows(seeds: Sequence[int], vocab_size: int) -> torch.Tensor:
    sources = [NoiseRows(seed, vocab_size) for seed in seeds]
    return host.noise_rows(sources, POSITIONS.tolist())


def on_device(*numbers: torch.Tensor) -> list[torch.Tensor]:
    return [each.to(DEVICE) for each in numbers]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bits_are_the_hosts(seed: int) -> None:
    """Red when a round, a key, a counter or the order of words is another: nothing is rounded."""
    from tests.engine.philox_words import words

    wanted = torch.from_numpy(RandomBits(seed).row(100_000, 4 * 64).view("int64"))
    got = words(*on_device(torch.tensor([seed]), torch.tensor([100_000])), 64)
    assert torch.equal(got.cpu(), wanted.view(64, 4))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_noise_of_some_tokens_is_the_hosts(seed: int) -> None:
    tokens = torch.randint(0, 151_936, (3, 300))
    seeds = torch.tensor([seed])
    got = noise_of(*on_device(seeds, POSITIONS, tokens)).cpu()
    wanted = noise_on_the_host(seeds, POSITIONS, tokens)
    assert got.dtype == wanted.dtype == torch.float32
    assert torch.allclose(got, wanted, rtol=0, atol=LAST_PLACE)


@pytest.mark.parametrize("vocab_size", [1, 1023, 1024, 1030])
def test_whole_rows_are_the_hosts(vocab_size: int) -> None:
    """Red when the last block writes too little, or into the next row."""
    got = noise_rows(*on_device(torch.tensor([-9]), POSITIONS), vocab_size).cpu()
    wanted = whole_rows([-9] * 3, vocab_size)
    assert torch.allclose(got, wanted, rtol=0, atol=LAST_PLACE)


def test_every_row_has_the_noise_of_its_own_seed() -> None:
    """Red when a program reads the first seed in every row."""
    seeds, tokens = torch.tensor([-9, 5, 2**62]), torch.tensor([[3, 1], [99, 0], [7, 7]])
    wanted = whole_rows(seeds.tolist(), 100)
    rows = noise_rows(*on_device(seeds, POSITIONS), 100).cpu()
    some = noise_of(*on_device(seeds, POSITIONS, tokens)).cpu()
    assert torch.allclose(rows, wanted, rtol=0, atol=LAST_PLACE)
    assert torch.allclose(some, wanted.gather(1, tokens), rtol=0, atol=LAST_PLACE)
    assert torch.equal(noise_on_the_host(seeds, POSITIONS, tokens), wanted.gather(1, tokens))


def test_the_host_noise_of_some_tokens_is_that_of_whole_rows() -> None:
    tokens = torch.tensor([[3, 1], [99, 0], [7, 7]])
    got = noise_on_the_host(torch.tensor([-9]), POSITIONS, tokens)
    assert torch.equal(got, whole_rows([-9] * 3, 100).gather(1, tokens))


def python(*arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    ).stdout


@pytest.mark.slow
def test_the_programs_compile_for_a_hopper_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a program is only for the interpreter, or 64 bits are not multiplied as such."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert python("-m", "tests.engine.philox_words").split() == ["mul.hi.u64"] * 2


def test_noise_that_is_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a GPU that rounds in another way would draw other texts than are promised."""
    triton_noise.check(DEVICE)
    right = triton_noise.noise_of
    monkeypatch.setattr(triton_noise, "noise_of", lambda *given: right(*given) + 0.01)
    with pytest.raises(ValueError, match="wrong"):
        triton_noise.check(DEVICE)
    proof.holds.cache_clear()
    assert not triton_noise.is_usable()
    assert "noise is made on the host" in caplog.text
    proof.holds.cache_clear()
