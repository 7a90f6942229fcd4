"""A checkpoint by its name: its configuration first, then its weights as a `Model`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from engine import attention
from engine.checkpoint import asked_once, check_configuration, fingerprint
from engine.errors import EngineError, ModelLoadError
from engine.kv_cache import kept_by
from engine.loading.adapter import Adapter
from engine.loading.limits import eos_token_ids, read_limits
from engine.loading.network import unfit, unloadable
from engine.loading.precision import choose_device, choose_precision, dtype_of_loading
from engine.loading.quiet import silence
from engine.loading.unpacking import unpack
from engine.loading.weights import StoredWeights
from engine.memory import Needs
from engine.model import CausalPass, Model
from engine.names import resolve
from engine.scorer import ModelLimits
from engine.strips import NOTHING, needs_of, plan_seats
from engine.weights import Precision, num_weights, quantise, unpacked

_LONGEST_WINDOW = 8192
"""Tokens, where nobody has said how long texts may be."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose configuration has been read; its weights have not been looked at."""

    name: str
    config: PretrainedConfig
    limits: ModelLimits

    @classmethod
    def read(cls, name: str) -> Self:
        """Raises ModelLoadError for what is not there or cannot be served."""
        with asked_once(name):
            config = _read_config(name)
        with _named(name):
            return cls(name, config, read_limits(config))

    def load(
        self,
        *,
        dtype: str,
        device: str,
        max_model_len: int | None,
        chunk: int,
        num_engines: int = 1,
        num_seats: int = 1,
        vocab_size: int = 0,
        lora: str | None = None,
        beside: Needs = NOTHING,
    ) -> Model:
        """Load the weights, prove that they obey tree masks, and give them a cache.

        It has room for `num_seats` texts; 0: for as many as memory allows. Without `max_model_len`
        these may be as long as it allows, too. `num_engines`, this one included, share the machine,
        and what is `beside` it in each is still to be loaded.
        Ids up to `vocab_size`, if there are fewer, get an embedding, so that a larger target's
        padding ids can be fed. The adapter `lora` is merged into the weights. Raises ModelLoadError
        for weights that cannot be found or an architecture that cannot be served, ConfigError for a
        device or precision that this machine lacks.
        """
        place = choose_device(device)
        with asked_once(self.name), _named(self.name):
            adapter = None if lora is None else Adapter.read(lora)
            weights = StoredWeights(self.name, self.config, adapter)
            wanted = choose_precision(dtype, place, self.config, num_engines, weights.precision)
            grows = vocab_size > self.limits.vocab_size
            network, wanted = weights.load(wanted, place, num_engines, keeps_ends=grows)
            eos = eos_token_ids(self.config, network.generation_config)
            limits = replace(self.limits, eos_token_ids=eos)
            if grows:
                network.resize_token_embeddings(vocab_size, mean_resizing=False)
                limits = replace(limits, vocab_size=vocab_size)
            whose = fingerprint(network, "" if adapter is None else adapter.fingerprint)
            given = (max_model_len, chunk, num_seats, num_engines, beside)
            model = _model_of(network, limits, wanted, *given)
        model.fingerprint = whose
        return model

    def precision(self, dtype: str, place: torch.device) -> Precision:
        """That in which it is computed there; raises as `choose_precision` does."""
        kept = StoredWeights(self.name, self.config).precision
        return choose_precision(dtype, place, self.config, 1, kept)

    def needs(self, dtype: str, place: torch.device) -> Needs:
        """What it will take in memory, by its shape alone; nothing where that does not tell.

        Raises ConfigError as `load` does.
        """
        wanted = self.precision(dtype, place)
        try:
            with torch.device("meta"), silence():
                network = AutoModelForCausalLM.from_config(
                    self.config,
                    trust_remote_code=False,
                    dtype=wanted.dtype,
                    attn_implementation=attention.NAME,
                )
                kept = kept_by(CausalPass(network.eval(), self.limits.window, ()).probe)
        except Exception:  # whatever a foreign configuration may cause; who loads it says so
            return NOTHING
        loaded = num_weights(network) * dtype_of_loading(wanted, self.config).itemsize
        return needs_of(kept) + Needs(num_bytes=loaded)


def load_model(
    name: str,
    *,
    dtype: str,
    device: str,
    max_model_len: int | None,
    chunk: int,
    num_engines: int = 1,
    num_seats: int = 1,
) -> Model:
    """The same at once, by a name. Raises as `Checkpoint.read` and `load` do."""
    return Checkpoint.read(name).load(
        dtype=dtype,
        device=device,
        max_model_len=max_model_len,
        chunk=chunk,
        num_engines=num_engines,
        num_seats=num_seats,
    )


def random_model(
    config: PretrainedConfig, *, dtype: str, device: str, max_model_len: int, chunk: int
) -> Model:
    """A model of random weights in a shape, for what depends on the shape alone, such as cost.

    Raises as `load_model` does.
    """
    place = choose_device(device)
    torch.manual_seed(0)
    wanted = choose_precision(dtype, place, config)
    with torch.device(place):
        network = AutoModelForCausalLM.from_config(
            config,
            trust_remote_code=False,
            dtype=wanted.dtype,
            attn_implementation=attention.NAME,
        )
    return _model_of(network.eval(), read_limits(config), wanted, max_model_len, chunk)


def _model_of(
    network: PreTrainedModel,
    limits: ModelLimits,
    precision: Precision,
    max_model_len: int | None,
    chunk: int,
    num_seats: int = 1,
    num_engines: int = 1,
    beside: Needs = NOTHING,
) -> Model:
    """A network in its precision, with a cache of as many rows as are wanted or fit."""
    num_parameters = num_weights(network)
    if precision.is_quantised:
        quantise(network, precision.name)
    longest = min(limits.max_positions, _LONGEST_WINDOW)
    # Of masks and positions, which rounding is not to hide.
    with unpacked(network):
        kept = kept_by(CausalPass(network, limits.window, ()).probe)
        seating = plan_seats(kept, max_model_len, longest, num_seats, num_engines, beside)
        model = Model(network, limits, seating.max_model_len, chunk, seating.num_seats, kept)
        model.check_seam()
    model.precision, model.seating = precision, seating.reason
    model.num_parameters = num_parameters
    return model


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which checkpoint an error is: there are several in an engine."""
    try:
        yield
    except EngineError as error:
        told = str(error)
        raise type(error)(told if repr(name) in told else f"{name!r}: {told}") from error
    except Exception as error:  # whatever a network does that was not written for our seams
        raise unfit(name, error) from error


def _read_config(name: str) -> PretrainedConfig:
    unpack(name)
    check_configuration(name)
    _refuse_adapter(name)
    try:
        with silence():
            config: PretrainedConfig = AutoConfig.from_pretrained(
                resolve(name), trust_remote_code=False
            )
    except Exception as error:  # whatever a foreign configuration may cause
        remedy = (
            " Give a Hugging Face id, a folder with config.json and weights, a GGUF file, "
            "embedded/target, or smollm2."
        )
        raise unloadable(name, error, remedy) from error
    return config


def _refuse_adapter(name: str) -> None:
    """Refuse an adapter: what stands beside it was not meant to be served without it."""
    try:
        adapter = find_adapter_config_file(resolve(name))
    except Exception:  # whatever the hub may say; it is told when the weights are asked for
        return
    if adapter is not None:
        raise ModelLoadError(
            f"{name!r} holds an adapter such as LoRA's (adapter_config.json): name its base model, "
            "and this folder in `lora` (--lora)."
        )
