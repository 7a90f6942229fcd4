"""The target that a draft or a head is trained for: loaded as it is served, asked whole texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from engine import attention
from engine.drafting.head_checkpoint import names_head
from engine.errors import ConfigError
from engine.loading import choose_device, load_model, read_limits
from engine.model import Model

_WINDOW = 1024


def load_teacher(name: str) -> PreTrainedModel:
    """A target on the GPU, in its own precision, or else on the CPU, in float32.

    Raises ModelLoadError for what cannot be loaded or served, ConfigError for a head.
    """
    if names_head(name):
        raise ConfigError(
            f"{name!r} is a head, which writes no text of its own: name a language model, such as "
            "the head's target."
        )
    dtype = training_dtype()
    model = load_model(name, dtype=dtype, device="auto", max_model_len=_WINDOW, chunk=512)
    network = model.network.requires_grad_(False)
    read_whole_texts(network)
    return network


def training_dtype() -> str:
    """The precision of what is read and not trained, as the engine's configuration names it."""
    return "auto" if choose_device("auto").type == "cuda" else "float32"


def read_whole_texts(network: PreTrainedModel) -> None:
    """Give a network the causal attention of transformers, in which batches of texts are read."""
    # The fused kernel that transformers calls knows no soft-capping.
    softcap = getattr(network.config.get_text_config(), "attn_logit_softcapping", None)
    try:
        network.set_attn_implementation("eager" if softcap else "sdpa")
    except ValueError:
        network.set_attn_implementation("eager")


@contextmanager
def scoring(network: PreTrainedModel) -> Iterator[Model]:
    """The network as the engine's model, with the tree attention and a cache, for a while."""
    network.set_attn_implementation(attention.NAME)
    try:
        yield Model(network, read_limits(network.config), _WINDOW)
    finally:
        read_whole_texts(network)
