"""Small arrays that go to a device, or come back from it, in one copy."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 16


class DeviceArrays:
    """Arrays of one piece of memory, which is there twice: on the host and on the device.

    `here` are arrays of the host, `there` tensors of the device, by name; both stay in place. A GPU
    copies while the host goes on, so what is `here` must not be changed between `send` and the next
    `fetch` of anything, but by `send` itself.
    """

    def __init__(self, device: torch.device, **fields: tuple[torch.dtype, tuple[int, ...]]) -> None:
        starts, size = {}, 0
        for name, (dtype, shape) in fields.items():
            starts[name] = size
            size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._here = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._there = torch.zeros(size, dtype=torch.uint8, device=device)
        self.here: dict[str, NDArray[Any]] = {}
        self.there: dict[str, Tensor] = {}
        for name, (dtype, shape) in fields.items():
            place = slice(starts[name], starts[name] + math.prod(shape) * dtype.itemsize)
            self.here[name] = self._here[place].view(dtype).view(shape).numpy()
            self.there[name] = self._there[place].view(dtype).view(shape)
        is_gpu = device.type == "cuda"
        self._has_left = torch.cuda.Event() if is_gpu else None  # type: ignore[no-untyped-call]

    def send(self, news: Mapping[str, Tensor] | None = None) -> None:
        """Copy everything to the device, in the order of its other work, and do not wait for that.

        `news` is put where the arrays of these names begin, when what was sent last has left them.
        """
        if self._has_left is not None:
            self._has_left.synchronize()
        for name, tensor in (news or {}).items():
            self.here[name][: len(tensor)] = tensor.numpy()
        self._there.copy_(self._here, non_blocking=True)
        if self._has_left is not None:
            self._has_left.record()

    def fetch(self) -> dict[str, NDArray[Any]]:
        """Copy everything back once the device's work so far is done, and wait for it."""
        self._here.copy_(self._there)
        return self.here
