"""The bits of the noise kernel, and its programs compiled for a GPU that is not there.

`python -m tests.engine.philox_words` prints, for each program, how it multiplies.
"""

from unittest.mock import patch

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels import philox_programs, triton_noise


@triton.jit
def _words(seed: tl.tensor, position: tl.tensor, result: tl.tensor, SIZE: tl.constexpr) -> None:
    block = tl.arange(0, SIZE)
    w0, w1, w2, w3 = philox_programs.philox(
        block.to(tl.int64) + 1, tl.load(position), tl.load(seed)
    )
    tl.store(result + block * 4, w0.to(tl.int64, bitcast=True))
    tl.store(result + block * 4 + 1, w1.to(tl.int64, bitcast=True))
    tl.store(result + block * 4 + 2, w2.to(tl.int64, bitcast=True))
    tl.store(result + block * 4 + 3, w3.to(tl.int64, bitcast=True))


def words(seed: Tensor, position: Tensor, size: int) -> Tensor:
    """The words of the first blocks at a position: int64 for uint64, (size, 4)."""
    result = torch.empty(size, 4, dtype=torch.int64, device=seed.device)
    _words[(1,)](seed, position, result, SIZE=size)
    return result


def main() -> None:
    """Compile both programs, as a launch would."""
    from triton.runtime import driver

    from tests.engine.compile_for_hopper import Compiled, Hopper

    class Multiplying(Compiled):
        """Tells of a program's products."""

        def _compile(self, grid: tuple[int, ...], *arguments: object, **options: object) -> None:
            kernel = self.program.run(*arguments, grid=grid, warmup=True, **options)
            print("mul.hi.u64" if "mul.hi.u64" in kernel.asm["ptx"] else "?")

    driver.set_active(Hopper())
    numbers = torch.zeros(3, dtype=torch.int64)
    names = ("noise_of_tokens", "noise_of_rows")
    replaced = {name: Multiplying(getattr(philox_programs, name), []) for name in names}
    with patch.multiple(philox_programs, **replaced):
        triton_noise.noise_of(numbers[:1], numbers, numbers[:, None].expand(3, 64).contiguous())
        triton_noise.noise_rows(numbers[:1], numbers, 151_936)


if __name__ == "__main__":
    main()
