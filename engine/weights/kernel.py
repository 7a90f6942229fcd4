"""Weights for our own kernels, in panels of outputs."""

import torch
from torch import Tensor

from engine.kernels import dots, linear, triton_dots
from engine.weights.integers import IntegerLinear
from engine.weights.packed import PackedLinear


class PanelLinear(PackedLinear):
    """A layer whose outputs' weights are in panels."""

    panels: Tensor
    """(panels, ...), of so many outputs each."""

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return self.panels.nbytes


class KernelLinear(PanelLinear):
    """In float32, over weights that are kept in bfloat16 if they are exact in that."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.register_buffer("panels", linear.pack(weight), persistent=False)

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether the weights are on a CPU: they may have any precision."""
        return weight.device.type == "cpu"

    @property
    def weight(self) -> Tensor:
        """A plain copy of the weights, as before they were laid out: (out, in)."""
        return super().weight.to(self.dtype)

    def outputs(self, start: int, end: int) -> Tensor:
        """A plain copy of the weights of these outputs, in float32."""
        size = self.panels.shape[2]  # as many as two vectors of the processor hold
        return linear.unpack(self.panels[start // size : -(-end // size)], end - start)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return linear.multiply(inputs, self.panels, self.bias, self.out_features)


class BFloat16KernelLinear(PanelLinear):
    """In dot products of bfloat16, summed up in float32, for inputs of that precision."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.register_buffer("panels", dots.pack_bfloat16(weight), persistent=False)

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether the weights are on a CPU, in bfloat16."""
        return weight.device.type == "cpu" and weight.dtype == torch.bfloat16

    def outputs(self, start: int, end: int) -> Tensor:
        """A plain copy of the weights of these outputs, in bfloat16."""
        part = self.panels[start // dots.OUTPUTS : -(-end // dots.OUTPUTS)]
        return dots.unpack_bfloat16(part, end - start, self.in_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return dots.multiply_bfloat16(inputs, self.panels, self.bias, self.out_features)


class IntegerKernelLinear(PanelLinear):
    """In integers of 8 or 4 bits, group by group of the inputs of a row."""

    halves: Tensor

    def __init__(self, plain: IntegerLinear) -> None:
        """The same weights as those of another layer, laid out for our kernels."""
        codes = plain.codes()
        super().__init__(codes.values, plain.bias)
        self.dtype = plain.dtype
        panels = dots.pack(codes)
        self.register_buffer("panels", panels.codes, persistent=False)
        self.register_buffer("halves", panels.halves, persistent=False)

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return self.panels.nbytes + self.halves.nbytes

    def outputs(self, start: int, end: int) -> Tensor:
        """A plain copy of the weights of these outputs, in float32."""
        part = slice(start // dots.OUTPUTS, -(-end // dots.OUTPUTS))
        panels = dots.Panels(self.panels[part], self.halves[part])
        return dots.unpack(panels, end - start, self.in_features).plain()

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        panels = dots.Panels(self.panels, self.halves)
        return dots.multiply(inputs, panels, self.bias, self.out_features)


class GpuIntegerLinear(PackedLinear):
    """The same on a GPU, with the same figures."""

    values: Tensor
    halves: Tensor

    def __init__(self, plain: IntegerLinear) -> None:
        """The same weights as those of another layer, laid out for our programs."""
        codes = plain.codes()
        super().__init__(codes.values, plain.bias)
        self.dtype = plain.dtype
        for name, part in triton_dots.lay_out(codes)._asdict().items():
            self.register_buffer(name, part, persistent=False)

    def outputs(self, start: int, end: int) -> Tensor:
        """A plain copy of the weights of these outputs, in float32."""
        part = triton_dots.Laid(self.values[:, start:end], self.halves[:, :, start:end])
        return triton_dots.codes_of(part, self.in_features).plain()

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return self.values.nbytes + self.halves.nbytes

    @property
    def _laid(self) -> triton_dots.Laid:
        return triton_dots.Laid(self.values, self.halves)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return triton_dots.multiply(inputs, self._laid, self.bias)
