"""LoRA adapters of tiny models, as PEFT saves them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

TARGETS = ("q_proj", "v_proj", "down_proj")


def save(
    folder: Path, network: PreTrainedModel, targets: tuple[str, ...] = TARGETS, **about: Any
) -> None:
    """Write an adapter of random factors for some layers, of rank 4, and of 2 for `v_proj`."""
    generator = torch.Generator().manual_seed(7)
    tensors: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if name.rpartition(".")[2] not in targets:
            continue
        out, size = layer.weight.shape
        rank = 2 if name.endswith("v_proj") else 4
        shapes = {"lora_A.weight": (rank, size), "lora_B.weight": (out, rank)}
        if isinstance(layer, torch.nn.Embedding):
            shapes = {"lora_embedding_A": (rank, out), "lora_embedding_B": (size, rank)}
        for leaf, shape in shapes.items():
            tensors[f"base_model.model.{name}.{leaf}"] = torch.randn(shape, generator=generator)
        if name.endswith(("embed_tokens", "lm_head")):  # which peft keeps beside
            tensors[f"base_model.model.{name}.base_layer.weight"] = layer.weight.detach().clone()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "somebody/model",
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_alpha": 1.0,
        "modules_to_save": None,
        "r": 4,
        "rank_pattern": {"v_proj": 2},
        "target_modules": list(targets),
        "use_dora": False,
        "use_rslora": False,
        **about,
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config))
