"""A network with the weights of its files, which are read one after another.

Of each no more than what is read and what becomes of it is in memory at a time.
"""

from collections import defaultdict
from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from engine import attention
from engine.checkpoint import check_numbers
from engine.kernels.dots import Codes
from engine.loading.adapter import Adapter
from engine.loading.network import check_found, places
from engine.loading.precision import num_parameters
from engine.loading.quiet import silence
from engine.loading.stored import NUMBERS, Rows, Source, StoredWeight, codes_of
from engine.memory import require
from engine.weights import (
    BITS,
    IntegerEmbedding,
    IntegerLinear,
    Precision,
    embedding_factor,
    ends_of,
)


def fill(
    source: Source,
    name: str,
    config: PretrainedConfig,
    precision: Precision,
    device: torch.device,
    num_engines: int,
    adapter: Adapter | None,
    keeps_ends: bool,
) -> tuple[PreTrainedModel, str]:
    """The network with all weights of a source, and what became of their forms: ": Q8_0 kept".

    Layers are rounded as they are read, if the precision is one that rounds, except for those of
    tokens where they are yet to change (`keeps_ends`). Raises EngineError.
    """
    bits = BITS.get(precision.name, 8 * precision.dtype.itemsize)
    remedy = "choose a smaller model, or dtype int4."
    size = num_parameters(config) * bits // 8
    require(size, device, f"loading the weights of {name!r}", remedy, num_engines)
    # Made without numbers, of which no page is touched before a tensor takes its place.
    with silence(), no_init_weights():
        network: PreTrainedModel = AutoModelForCausalLM.from_config(
            deepcopy(config),  # which a network that grows changes
            trust_remote_code=False,
            dtype=precision.dtype,
            attn_implementation=attention.NAME,
        )
    network.tie_weights()
    network.requires_grad_(False)
    filler = _Filler(network, source.precision == precision.name, precision, adapter, keeps_ends)
    filler.fill(name, source)
    nn.Module.to(network, device).eval()
    # Scales are buffers, and persistent in no network of ours.
    check_numbers(name, network.state_dict(keep_vars=True) | dict(network.named_buffers()))
    return network, filler.told


class _Filler:
    """Gives the weights of a network their numbers, or codes."""

    def __init__(
        self,
        network: PreTrainedModel,
        is_own: bool,
        precision: Precision,
        adapter: Adapter | None,
        keeps_ends: bool,
    ) -> None:
        self._network, self._precision, self._adapter = network, precision, adapter
        # What a file has in more bits than most of it was not worth fewer to who made it.
        self._is_own = is_own
        self._ends = ends_of(network)
        self._whole = self._ends if keeps_ends else ()
        self._became: dict[str, set[str]] = defaultdict(set)

    @property
    def told(self) -> str:
        """Which forms of a file were kept, and which became others, as the end of a sentence."""
        parts = [f"{' '.join(sorted(kinds))} {what}" for what, kinds in self._became.items()]
        return f": {', '.join(parts)}" if parts else ""

    def fill(self, name: str, source: Source) -> None:
        """Give every weight what the source has of it. Raises ModelLoadError if one is missing."""
        of_network = places(self._network)
        shapes = {key: tuple(each.shape) for key, each in self._network.state_dict().items()}
        if self._adapter is not None:
            self._adapter.check(shapes)
        missing = {keys[0]: shapes[keys[0]] for keys in of_network}
        left_over, mis_shaped = [], []
        keys_of = {key: keys for keys in of_network for key in keys}
        named = source.keys(self._network)
        for weight in source.weights:
            if (key := named[weight.name]) is None:
                left_over.append(weight.name)
                continue
            keys = keys_of[key]
            # What is tied may be there under each of its names.
            if (shape := missing.pop(keys[0], None)) is None:
                continue
            if shape == weight.shape:
                self._take(weight, keys)
            else:
                mis_shaped.append(key)
        check_found(name, self._network, missing, left_over, mis_shaped)

    def _take(self, weight: StoredWeight, keys: list[str]) -> None:
        """Put a weight where it belongs, in every such place."""
        rows = weight.read()
        if self._adapter is not None:
            rows = self._adapter.merged(keys, rows)
        codes: Codes | None = None
        values: Tensor | None = None
        for key in keys:
            path, _, leaf = key.rpartition(".")
            module = self._network.get_submodule(path)
            if leaf == "weight" and self._is_rounded(module):
                codes = codes or self._codes(rows, weight, module in self._ends)
                rounded = _rounded(module, codes, is_tied=len(keys) > 1)
                self._network.set_submodule(path, rounded)
            else:
                target: Tensor = getattr(module, leaf)
                values = rows.plain().to(target.dtype) if values is None else values
                target.data = values
                self._tell(weight, "widened")

    def _is_rounded(self, layer: nn.Module) -> bool:
        is_end = layer in self._ends and embedding_factor(layer) is not None
        is_kind = type(layer) is nn.Linear or is_end
        return self._precision.is_quantised and is_kind and layer not in self._whole

    def _codes(self, rows: Rows, weight: StoredWeight, is_end: bool) -> Codes:
        keeps_bits = self._is_own or is_end
        codes, is_kept = codes_of(rows, weight.shape, self._precision.name, keeps_bits)
        bits = 8 if codes.minima is None else 4
        self._tell(weight, "kept" if is_kept else f"in {bits} bits")
        return codes

    def _tell(self, weight: StoredWeight, what: str) -> None:
        if weight.bits < NUMBERS:
            self._became[what].add(weight.kind)


def _rounded(layer: nn.Module, codes: Codes, is_tied: bool) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return IntegerLinear(codes, layer.bias, codes.values.dtype)
    return IntegerEmbedding(codes, embedding_factor(layer) or 1.0, is_tied)
