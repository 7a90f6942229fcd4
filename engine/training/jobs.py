"""What can be trained: a target, a draft for it, a head for it. Each resumes where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from engine.drafting.head_network import HeadNetwork
from engine.training.head import TrainingTimeTest, new_head
from engine.training.objectives import Distilled, NextToken
from engine.training.streams import Streams
from engine.training.trainer import Progress, Recipe, Report, Run

LONG_LENGTHS = ((0.0, 256), (0.4, 512), (0.7, 1024), (0.88, 2048))
"""A single layer does not carry over to positions it has not seen: the long ones start early."""


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """A head beside its target: width of its MLP, the target's layers it reads, steps it learns."""

    intermediate_size: int
    layers: tuple[int, ...]
    num_steps: int = 3

    @classmethod
    def beside(cls, target: PreTrainedModel) -> HeadPlan:
        """As wide as one of the target's own layers; a third, two thirds and all the way up."""
        config = target.config.get_text_config()
        num_layers = config.num_hidden_layers
        width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        return cls(width, (num_layers // 3, 2 * num_layers // 3, num_layers))


def new_llama(config: LlamaConfig, seed: int) -> PreTrainedModel:
    """A random Llama, on the GPU if there is one."""
    torch.manual_seed(seed)
    model: PreTrainedModel = LlamaForCausalLM(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(model, device)
    return model


def train_target(
    config: LlamaConfig, streams: Streams, recipe: Recipe, checkpoint: Path, report: Report
) -> tuple[PreTrainedModel, Progress]:
    """A language model from scratch, on the next token."""
    model = new_llama(config, recipe.seed)
    run = Run(NextToken(model), recipe, checkpoint)
    return model, run.train(streams.train, streams.held_out, report)


def train_draft(
    config: LlamaConfig,
    target: PreTrainedModel,
    is_distilled: bool,
    streams: Streams,
    recipe: Recipe,
    checkpoint: Path,
    report: Report,
) -> tuple[PreTrainedModel, Progress]:
    """A small language model for a target: on the next token, or on the target's distribution."""
    model = new_llama(config, recipe.seed)
    objective = Distilled(model, target) if is_distilled else NextToken(model, target)
    run = Run(objective, recipe, checkpoint)
    return model, run.train(streams.train, streams.held_out, report)


def train_head(
    target: PreTrainedModel,
    plan: HeadPlan,
    streams: Streams,
    recipe: Recipe,
    checkpoint: Path,
    report: Report,
) -> tuple[HeadNetwork, Progress]:
    """A head for a target, on the target's distributions some tokens ahead."""
    torch.manual_seed(recipe.seed)
    head = new_head(target, plan.intermediate_size, plan.layers)
    run = Run(TrainingTimeTest(head, target, plan.num_steps), recipe, checkpoint)
    return head, run.train(streams.train, streams.held_out, report)
