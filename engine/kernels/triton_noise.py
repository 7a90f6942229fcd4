"""The noise of `engine.noise` made on a GPU; `philox_programs.py` says how.

The bits are the host's, exactly; their logarithms are rounded by the device's own library, so a
variate may differ from the host's in its last place. Nothing waits for the device and no launch
depends on a tensor's contents, so a call can be recorded once another has compiled it.
"""

import numpy as np
import torch
from torch import Tensor

from engine.kernels.proof import holds

_BLOCK = 256


def is_usable() -> bool:
    """Whether the GPU of this process makes the noise that it should; tried once."""
    return holds(check, "noise is made on the host")


def check(device: str) -> None:
    """Raise ValueError unless noise is right there, or whatever Triton raises."""
    words = np.random.Philox(key=[7, 0], counter=[0, 5, 0, 0]).random_raw(8)
    expected = -np.log(-np.log1p(-((words >> np.uint64(12)) + 0.5) * 2.0**-52))
    seed, position = torch.tensor([7]).to(device), torch.tensor([5]).to(device)
    found = (
        noise_rows(seed, position, 8),
        noise_of(seed, position, torch.arange(8)[None].to(device)),
    )
    for noise in found:
        if not np.allclose(noise.cpu().numpy()[0], expected, rtol=1e-5, atol=1e-5):
            raise ValueError("its noise is wrong")


def noise_of(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """The noise of some tokens (rows, tokens) at the position of each row (rows,): float32.

    All int64 and contiguous, like `seeds`, (rows,) or one for all, which are taken modulo 2**64.
    """
    from engine.kernels import philox_programs as programs

    num_rows, num_tokens = tokens.shape
    noise = torch.empty_like(tokens, dtype=torch.float32)
    with torch.cuda.device_of(tokens):  # type: ignore[no-untyped-call]
        programs.noise_of_tokens[num_rows, _blocks(num_tokens)](
            seeds, _stride(seeds), positions, tokens, noise, num_tokens, BLOCK=_BLOCK
        )
    return noise


def noise_rows(seeds: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """The noise of all tokens at several positions (rows,): float32, (rows, vocab_size).

    Seeds and positions as in `noise_of`.
    """
    from engine.kernels import philox_programs as programs

    noise = torch.empty(len(positions), vocab_size, dtype=torch.float32, device=positions.device)
    with torch.cuda.device_of(positions):  # type: ignore[no-untyped-call]
        programs.noise_of_rows[len(positions), _blocks(-(-vocab_size // 4))](
            seeds, _stride(seeds), positions, noise, vocab_size, BLOCK=_BLOCK
        )
    return noise


def _stride(seeds: Tensor) -> int:
    return 0 if len(seeds) == 1 else 1


def _blocks(number: int) -> int:
    return -(-number // _BLOCK)
