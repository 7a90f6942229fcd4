"""Tiny random models that tests make: written to a folder in Hugging Face layout, or in memory."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from engine import attention
from engine.loading import read_limits
from engine.model import Model

VOCAB_SIZE = 64

_SHAPES: dict[str, dict[str, object]] = {
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
# Only where they are asked for: experts, without a window, and what GGUF files hold.
_SHAPES["mixtral"] = _SHAPES["gpt_oss"] = _SHAPES["qwen2"] = _SHAPES["phi3"] = _SHAPES["llama"]
_SHAPES["gemma3_text"] = {**_SHAPES["qwen3"], "sliding_window": 6}

_MIXED = {"num_hidden_layers": 3}
_DELTA = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_HYBRIDS: dict[str, dict[str, object]] = {
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "num_local_experts": 0,
        "shared_intermediate_size": 48,
    },
    "qwen3_5_text": _DELTA,
    "qwen3_next": {**_DELTA, **_EXPERTS},
}
HYBRIDS = tuple(_HYBRIDS)
"""Some of their layers keep a state."""
_SHAPES.update({name: {**_SHAPES["llama"], **_MIXED, **shape} for name, shape in _HYBRIDS.items()})


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
    num_seats: int = 1,
    **shape: int,
) -> Model:
    """A random model with its cache, in this process."""
    network = make_network(architecture, seed, **shape)
    return Model(network, read_limits(network.config), max_model_len, chunk, num_seats)


def save_checkpoint(folder: Path, architecture: str = "llama", seed: int = 0, **shape: int) -> Path:
    """A random checkpoint on disk; returns its folder."""
    make_network(architecture, seed, **shape).save_pretrained(folder)
    return folder


def make_head_weights(
    target: PreTrainedModel, draft_ids: list[int] | None = None, seed: int = 3, **shape: int
) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """A random EAGLE-3 head for a llama-shaped target: what its public checkpoints contain.

    Written from the layout alone, so that it can stand beside the code that reads it.
    """
    torch.manual_seed(seed)
    text = target.config
    size, wide, kv = text.hidden_size, 2 * text.hidden_size, 2 * 8
    num_draft = len(draft_ids) if draft_ids else VOCAB_SIZE
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": size,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "hidden_act": "silu",
        "vocab_size": VOCAB_SIZE,
        "draft_vocab_size": num_draft,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [-1, 0, 1]},
        **shape,
    }
    sizes = {
        "fc": (size, 3 * size),
        "midlayer.self_attn.q_proj": (32, wide),
        "midlayer.self_attn.k_proj": (kv, wide),
        "midlayer.self_attn.v_proj": (kv, wide),
        "midlayer.self_attn.o_proj": (size, 32),
        "midlayer.mlp.gate_proj": (40, size),
        "midlayer.mlp.up_proj": (40, size),
        "midlayer.mlp.down_proj": (size, 40),
        "lm_head": (num_draft, size),
    }
    weights = {f"{name}.weight": torch.randn(shape) * 0.3 for name, shape in sizes.items()}
    for name in ("hidden_norm", "input_layernorm", "post_attention_layernorm"):
        weights[f"midlayer.{name}.weight"] = 1 + 0.2 * torch.randn(size)
    weights["norm.weight"] = 1 + 0.2 * torch.randn(size)
    if draft_ids:
        ids = torch.tensor(sorted(draft_ids))
        weights["d2t"] = ids - torch.arange(num_draft)
        weights["t2d"] = torch.isin(torch.arange(VOCAB_SIZE), ids)
    return config, weights


def save_head_checkpoint(
    folder: Path, config: dict[str, object], weights: dict[str, torch.Tensor]
) -> Path:
    """A head on disk, as one is downloaded; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder
