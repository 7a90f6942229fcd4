"""Tiny random models that tests make: written to a folder in Hugging Face layout, or in memory."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from engine import attention
from engine.loading import read_limits
from engine.model import Model

VOCAB_SIZE = 64

_SHAPES = {
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}
_SHAPES["mistral"] = {**_SHAPES["llama"], "sliding_window": 6}
_SHAPES["qwen3"] = {**_SHAPES["llama"], "head_dim": 8}
_SHAPES["gemma2"] = {
    **_SHAPES["llama"],
    "head_dim": 8,
    "sliding_window": 6,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 20.0,
}

ARCHITECTURES = tuple(_SHAPES)


def make_network(architecture: str = "llama", seed: int = 0, **shape: int) -> PreTrainedModel:
    """A random network in float32 whose logits are spread widely enough to have opinions."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        **_SHAPES[architecture],
        **shape,
    }
    config = AutoConfig.for_model(architecture, **settings)
    network = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    return network.eval()


def make_model(
    architecture: str = "llama",
    seed: int = 0,
    max_model_len: int = 512,
    chunk: int = 16,
    **shape: int,
) -> Model:
    """A random model with its cache, in this process."""
    network = make_network(architecture, seed, **shape)
    return Model(network, read_limits(network.config), max_model_len, chunk)


def save_checkpoint(folder: Path, architecture: str = "llama", seed: int = 0, **shape: int) -> Path:
    """A random checkpoint on disk; returns its folder."""
    make_network(architecture, seed, **shape).save_pretrained(folder)
    return folder
