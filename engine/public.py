"""Drafts that others have published, by the models that they draft for.

Each name was found, on the date below, in public code or documents that use it: heads beside the
model that they belong to (EAGLE's own list, vLLM's tests and speculators, AngelSlim's), siblings as
models that are loaded by that name. Nobody has measured here how well they draft.
"""

from dataclasses import dataclass
from typing import Literal

CHECKED = "2026-11-27"

_HEADS: dict[str, tuple[str, ...]] = {
    "meta-llama/Llama-3.1-8B-Instruct": (
        "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B",
        "RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3",
    ),
    "meta-llama/Llama-3.3-70B-Instruct": (
        "yuhuili/EAGLE3-LLaMA3.3-Instruct-70B",
        "RedHatAI/Llama-3.3-70B-Instruct-speculator.eagle3",
    ),
    "lmsys/vicuna-13b-v1.3": ("yuhuili/EAGLE3-Vicuna1.3-13B",),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": ("yuhuili/EAGLE3-DeepSeek-R1-Distill-LLaMA-8B",),
    "Qwen/Qwen3-1.7B": ("AngelSlim/Qwen3-1.7B_eagle3",),
    "Qwen/Qwen3-4B": ("AngelSlim/Qwen3-4B_eagle3",),
    "Qwen/Qwen3-8B": (
        "AngelSlim/Qwen3-8B_eagle3",
        "Tengyunw/qwen3_8b_eagle3",
        "RedHatAI/Qwen3-8B-speculator.eagle3",
    ),
    "Qwen/Qwen3-14B": ("AngelSlim/Qwen3-14B_eagle3", "RedHatAI/Qwen3-14B-speculator.eagle3"),
    "Qwen/Qwen3-32B": ("AngelSlim/Qwen3-32B_eagle3", "RedHatAI/Qwen3-32B-speculator.eagle3"),
}

_FAMILIES: tuple[dict[str, int], ...] = (
    {
        "Qwen/Qwen3-0.6B": 600,
        "Qwen/Qwen3-1.7B": 1700,
        "Qwen/Qwen3-4B": 4000,
        "Qwen/Qwen3-8B": 8200,
        "Qwen/Qwen3-14B": 14800,
        "Qwen/Qwen3-32B": 32800,
    },
    {
        "Qwen/Qwen2.5-0.5B-Instruct": 490,
        "Qwen/Qwen2.5-1.5B-Instruct": 1540,
        "Qwen/Qwen2.5-3B-Instruct": 3090,
        "Qwen/Qwen2.5-7B-Instruct": 7610,
        "Qwen/Qwen2.5-14B-Instruct": 14700,
        "Qwen/Qwen2.5-32B-Instruct": 32500,
    },
    {
        "meta-llama/Llama-3.2-1B-Instruct": 1230,
        "meta-llama/Llama-3.2-3B-Instruct": 3210,
        "meta-llama/Llama-3.1-8B-Instruct": 8030,
        "meta-llama/Llama-3.3-70B-Instruct": 70600,
    },
    {"google/gemma-2-2b-it": 2610, "google/gemma-2-9b-it": 9240, "google/gemma-2-27b-it": 27200},
    {
        "google/gemma-3-270m-it": 270,
        "google/gemma-3-1b-it": 1000,
        "google/gemma-3-4b-it": 4300,
        "google/gemma-3-12b-it": 12200,
    },
    {
        "mistralai/Mistral-7B-Instruct-v0.3": 7250,
        "mistralai/Mistral-Large-Instruct-2407": 123000,
    },
    {"microsoft/Phi-3-mini-4k-instruct": 3820, "microsoft/Phi-3-medium-4k-instruct": 14000},
    {
        "smollm2": 135,
        "HuggingFaceTB/SmolLM2-135M-Instruct": 135,
        "HuggingFaceTB/SmolLM2-360M-Instruct": 362,
        "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1710,
    },
    {"distilgpt2": 82, "gpt2": 124, "gpt2-medium": 355, "gpt2-large": 774, "gpt2-xl": 1558},
)
"""Models of one tokenizer by millions of weights."""

_LARGEST_SHARE = 0.5
"""Of the target's weights: a pass of a larger draft costs more than it can bring."""


@dataclass(frozen=True, slots=True)
class PublicDraft:
    """A head or a small model, and its share of the target's weights; 0 where nobody has told."""

    name: str
    kind: Literal["head", "model"]
    share: float = 0.0


def public_drafts(target: str) -> tuple[PublicDraft, ...]:
    """What is known to draft for a model of this name: heads, then siblings, the smallest first."""
    heads = [PublicDraft(name, "head") for name in _HEADS.get(target, ())]
    family = next((each for each in _FAMILIES if target in each), {target: 1})
    shares = {name: millions / family[target] for name, millions in family.items()}
    siblings = [
        PublicDraft(name, "model", share)
        for name, share in sorted(shares.items(), key=lambda pair: pair[1])
        if share <= _LARGEST_SHARE
    ]
    return (*heads, *siblings)


def public_names() -> set[str]:
    """Every name in the table."""
    heads = {name for target, names in _HEADS.items() for name in (target, *names)}
    return heads | {name for family in _FAMILIES for name in family}
