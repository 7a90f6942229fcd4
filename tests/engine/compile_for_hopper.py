"""Compiles our Triton programs for a GPU that is not there, as Triton's compiler can.

`python -m tests.engine.compile_for_hopper` prints, for every example, a line of JSON: the bytes of
shared memory of its programs and the instructions of its products.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from engine.kernels import dot_programs, dots, triton_attention, triton_dots, triton_programs
from engine.kernels.sight import Sight

CAPACITY = 32768
NUM_PROCESSORS = 132


class Hopper:
    """What Triton asks a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass
class Compiled:
    """Stands for a program: a launch compiles it and keeps what the compiler says."""

    program: Any
    results: list[dict[str, Any]]

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return functools.partial(self._compile, grid)

    def _compile(self, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        kernel = self.program.run(*arguments, grid=grid, warmup=True, **options)
        names = ("wgmma.mma_async", "mma.sync", "cp.async.cg")
        instructions = [name for name in names if name in kernel.asm["ptx"]]
        self.results.append({"shared": kernel.metadata.shared, "instructions": instructions})


def compile_product(rows: int, bits: int) -> list[dict[str, Any]]:
    """The same of the two programs of a product in integers."""
    results: list[dict[str, Any]] = []
    laid = triton_dots.lay_out(dots.quantise(torch.zeros(2048, 1024), bits))
    programs = ("round_rows", "multiply_rows")
    replaced = {name: Compiled(getattr(dot_programs, name), results) for name in programs}
    with patch.multiple(dot_programs, **replaced):
        triton_dots.multiply(torch.zeros(rows, 1024), laid, None)
    return results


def compile_example(
    rows: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype, has_options: bool
) -> list[dict[str, Any]]:
    """What the compiler says of the two programs of an attention."""
    results: list[dict[str, Any]] = []
    query = torch.empty(1, rows, heads, size, dtype=dtype).transpose(1, 2)
    cache = torch.empty(1, kv_heads, CAPACITY, size, dtype=dtype)
    places, visible = torch.zeros(3, rows).long(), torch.zeros(rows, 136, dtype=torch.uint8)
    sight = Sight(places, visible, 4096 if has_options else 0)
    options: dict[str, Any] = {"softcap": 50.0, "sinks": torch.zeros(heads)}
    programs = ("attend_parts", "combine_parts")
    replaced = {name: Compiled(getattr(triton_programs, name), results) for name in programs}
    with patch.multiple(triton_programs, **replaced):
        triton_attention.attend(
            *(query, cache, cache, sight),
            **(options if has_options else {}),
        )
    return results


def main() -> None:
    """Compile all examples: a small block with all options, a large one, and exact products."""
    driver.set_active(Hopper())
    with patch.object(triton_attention, "_num_processors", lambda device: NUM_PROCESSORS):
        for example in (
            (1, 32, 8, 128, torch.bfloat16, True),
            (512, 20, 20, 64, torch.float16, False),
            (8, 32, 32, 80, torch.float32, True),
        ):
            print(json.dumps(compile_example(*example)))
    for rows, bits in ((1, 8), (1, 4), (64, 8), (64, 4)):
        print(json.dumps(compile_product(rows, bits)))


if __name__ == "__main__":
    main()
