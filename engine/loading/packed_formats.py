"""How others pack the weights of a linear layer: GPTQ, AWQ, compressed-tensors and FP8.

Each keeps a layer's weight as several tensors under the layer's name. Here they become the matrix
(out, in) again: its codes, with a scale and a zero for each group of inputs, or numbers of 8 bits
with their scales. Layouts: AutoGPTQ's `qlinear_cuda_old.py` (and GPTQModel's, which stores zeros as
they are: `gptq_v2`), AutoAWQ's `gemm.py`, compressed-tensors' `pack_quantized.py`, and `kernel.py`
of DeepSeek-V3 for FP8 by blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelLoadError
from engine.loading.packed_rows import Affine, Scaled, unpacked
from engine.loading.stored import NUMBERS, Numbers, Rows

_WORD = 32
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word of AWQ the codes of eight neighbours are."""
OF_INPUTS = frozenset({"input_scale", "input_zero_point", "input_scale_ub", "activation_scale"})
"""Of a layer, too: how its inputs were to be rounded, which they are otherwise here."""


class Layer(ABC):
    """A layer's tensors in a file, by the last parts of their names."""

    @property
    @abstractmethod
    def leaves(self) -> Collection[str]:
        """Which there are."""

    @abstractmethod
    def shape(self, leaf: str) -> tuple[int, ...]:
        """That of one of them. Raises ModelLoadError if there is none."""

    @abstractmethod
    def kind(self, leaf: str) -> str:
        """What safetensors calls the numbers of one of them: F16, BF16, F8_E4M3, I8."""

    @abstractmethod
    def tensor(self, leaf: str) -> Tensor:
        """One of them, which is read. Raises ModelLoadError as `shape` does."""


class Format(ABC):
    """What tensors the weight of a layer is kept in, and how."""

    leaves: frozenset[str]
    """The last parts of their names."""

    def bits(self, layer: Layer) -> int:
        """Of a code."""
        return 4

    @abstractmethod
    def shape(self, layer: Layer) -> tuple[int, ...]:
        """That of the weight, (out, in)."""

    @abstractmethod
    def rows(self, layer: Layer) -> Rows:
        """The weight."""


class _Gptq(Format):
    """Codes of an output below one another in words."""

    leaves = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    def __init__(self, about: Mapping[str, Any]) -> None:
        _one_of(about, "bits", (2, 4, 8))
        layout = _layout(about, ("checkpoint_format", "format"), ("gptq", "gptq_v2"))
        _one_of(about, "dynamic", (None, {}))
        self._bits = int(about["bits"])
        self._sizes = (int(about.get("group_size", -1)),)
        self._below = 0 if layout == "gptq_v2" else 1

    def bits(self, layer: Layer) -> int:
        """Two are kept in four."""
        return max(self._bits, 4)

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """Words lie along the inputs."""
        num_words, out = layer.shape("qweight")
        return out, num_words * _WORD // self._bits

    def rows(self, layer: Layer) -> Rows:
        """What is stored of a zero is one less; of each input it is told which group it is of."""
        values = unpacked(layer.tensor("qweight").T, self._bits)
        zeros = unpacked(layer.tensor("qzeros"), self._bits).T[: len(values)]
        zeros = (zeros + self._below) & (2**self._bits - 1)
        scales = layer.tensor("scales").T
        order = layer.tensor("g_idx") if "g_idx" in layer.leaves else None
        return Affine(values, scales, zeros, self.bits(layer), self._sizes, order)


class _Awq(Format):
    """Codes of an input side by side in words, in an order of their own."""

    leaves = frozenset({"qweight", "qzeros", "scales"})

    def __init__(self, about: Mapping[str, Any]) -> None:
        _one_of(about, "bits", (4,))
        _layout(about, ("version", "format"), ("gemm",))
        self._sizes = (int(about.get("group_size", -1)),)

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """Words lie along the outputs."""
        size, num_words = layer.shape("qweight")
        return num_words * _WORD // 4, size

    def rows(self, layer: Layer) -> Rows:
        """Groups lie along the inputs."""
        values, zeros = (_of_neighbours(layer.tensor(leaf)) for leaf in ("qweight", "qzeros"))
        scales = layer.tensor("scales").T
        return Affine(values.T.contiguous(), scales, zeros.T, 4, self._sizes)


def _of_neighbours(words: Tensor) -> Tensor:
    codes = unpacked(words, 4)
    return codes.view(len(codes), -1, len(_AWQ_ORDER))[:, :, _AWQ_ORDER].flatten(1)


class _CompressedTensors(Format):
    """Codes of an output side by side in words; or bytes, or numbers of 8 bits."""

    leaves = frozenset(
        {"weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape"}
        | {"weight_g_idx"}
    )
    _known = (None, "dense", "naive-quantized", "pack-quantized", "int-quantized")

    def __init__(self, about: Mapping[str, Any]) -> None:
        _one_of(about, "sparsity_config", (None, {}))
        groups = [*(about.get("config_groups") or {}).values()]
        for each in (about, *groups):
            _one_of(each, "format", (*self._known, "float-quantized", "mixed-precision"))
        weights = [each.get("weights") or {} for each in groups]
        for each in weights:
            _one_of(each, "num_bits", (None, 4, 8))
        self._sizes = tuple(int(each.get("group_size") or -1) for each in weights)
        blocks = (_block(each, "block_structure") for each in weights)
        self._block = next((each for each in blocks if each), None)

    def bits(self, layer: Layer) -> int:
        """By how many codes a word has."""
        if "weight_packed" not in layer.leaves:
            return 8 if layer.kind("weight") == "I8" else NUMBERS
        num_words = layer.shape("weight_packed")[1]
        return 4 if self.shape(layer)[1] > num_words * _WORD // 8 else 8

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """A tensor of its own says that of weights in words."""
        if "weight_packed" in layer.leaves:
            return tuple(map(int, layer.tensor("weight_shape")))
        return layer.shape("weight")

    def rows(self, layer: Layer) -> Rows:
        """Codes in words are of no sign: what is their middle stands for zero."""
        bits = self.bits(layer)
        if bits == NUMBERS:
            return _numbers(layer, "weight_scale", self._block)
        scales, (out, size) = layer.tensor("weight_scale"), self.shape(layer)
        scales = scales.reshape(-1, scales.shape[-1] if scales.dim() > 1 else 1).expand(out, -1)
        middle = 2 ** (bits - 1) if "weight_packed" in layer.leaves else 0
        values = unpacked(layer.tensor("weight_packed"), bits) if middle else layer.tensor("weight")
        zeros = torch.full_like(scales, middle, dtype=torch.int16)
        if "weight_zero_point" in layer.leaves:
            stored = layer.tensor("weight_zero_point")
            is_packed = stored.dtype == torch.int32
            zeros = unpacked(stored.T, bits).T[:out] if is_packed else stored.short() + middle
            zeros = zeros.reshape(-1, scales.shape[1]).expand(out, -1)
        order = layer.tensor("weight_g_idx") if "weight_g_idx" in layer.leaves else None
        return Affine(values[:, :size], scales, zeros, bits, self._sizes, order)


class _Fp8(Format):
    """Numbers of 8 bits, with a scale for each block of them, each output, or all."""

    leaves = frozenset({"weight", "weight_scale", "weight_scale_inv"})

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._block = _block(about, "weight_block_size")

    def bits(self, layer: Layer) -> int:
        """They are numbers."""
        return NUMBERS

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """Nothing is packed."""
        return layer.shape("weight")

    def rows(self, layer: Layer) -> Rows:
        """What is called an inverse multiplies, too."""
        leaf = "weight_scale" if "weight_scale" in layer.leaves else "weight_scale_inv"
        return _numbers(layer, leaf, self._block)


def _numbers(layer: Layer, scales: str, block: tuple[int, int] | None) -> Rows:
    """Those of 8 bits, with their scales; wider ones have been multiplied by them already."""
    values = layer.tensor("weight")
    if layer.kind("weight").startswith(("F8", "I8")):
        return Scaled(values, layer.tensor(scales), block)
    return Numbers(values)


FORMATS: Mapping[str, Callable[[Mapping[str, Any]], Format]] = {
    "gptq": _Gptq,
    "awq": _Awq,
    "compressed-tensors": _CompressedTensors,
    "fp8": _Fp8,
    "fbgemm_fp8": _Fp8,
}
"""By what a configuration calls them. What else it says that is not read raises ModelLoadError."""


def _layout(about: Mapping[str, Any], keys: Sequence[str], known: tuple[str, ...]) -> str:
    """What the first of these keys says, in small letters; where none does, the first known."""
    key = next((key for key in keys if about.get(key) is not None), keys[0])
    said = about.get(key) or known[0]
    found = str(getattr(said, "value", said)).lower()  # of an enumeration of transformers'
    _one_of({key: found}, key, known)
    return found


def _block(about: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    """Outputs and inputs of a block, as a list or as "128x128"; None if nothing is said of it."""
    if not (found := about.get(key)):
        return None
    sizes = str(found).strip("[]()").replace("x", ",").split(",")
    if len(sizes) != 2 or not all(each.strip().isdecimal() and int(each) for each in sizes):
        raise _unread(key, found)
    return int(sizes[0]), int(sizes[1])


def _one_of(about: Mapping[str, Any], key: str, known: tuple[object, ...]) -> None:
    if (found := about.get(key)) not in known:
        raise _unread(key, found)


def _unread(key: str, found: object) -> ModelLoadError:
    return ModelLoadError(
        f"its weights are packed in a way ({key}: {str(found)[:60]}) that is not read here: "
        "choose the same model in bfloat16, or as a GGUF file."
    )
