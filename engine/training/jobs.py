"""What can be trained: a target, a draft for it, a head for it. Each resumes where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from engine.drafting.head_network import HeadNetwork
from engine.loading import choose_device
from engine.training.head import TrainingTimeTest, new_head
from engine.training.objectives import Distilled, NextToken
from engine.training.recipe import Recipe
from engine.training.shapes import HeadPlan
from engine.training.streams import Streams
from engine.training.tokens import frequent_ids
from engine.training.trainer import Objective, Progress, Report, Run, unheard


@dataclass(frozen=True, slots=True)
class Course:
    """What every training needs beside its model; `origin` says what is trained, and on what."""

    streams: Streams
    recipe: Recipe
    checkpoint: Path
    report: Report = unheard
    origin: str = ""

    def run(self, objective: Objective) -> Progress:
        """Train to the end of the budget."""
        run = Run(objective, self.recipe, self.checkpoint, self.origin)
        return run.train(self.streams.train, self.streams.held_out, self.report)


def new_llama(config: LlamaConfig, seed: int) -> PreTrainedModel:
    """A random Llama, on the GPU if there is one."""
    torch.manual_seed(seed)
    model: PreTrainedModel = LlamaForCausalLM(config)
    torch.nn.Module.to(model, choose_device("auto"))
    return model


def train_target(config: LlamaConfig, course: Course) -> tuple[PreTrainedModel, Progress]:
    """A language model from scratch, on the next token."""
    model = new_llama(config, course.recipe.seed)
    return model, course.run(NextToken(model))


def train_draft(
    config: LlamaConfig, target: PreTrainedModel, is_distilled: bool, course: Course
) -> tuple[PreTrainedModel, Progress]:
    """A small language model for a target: on the next token, or on the target's distribution."""
    model = new_llama(config, course.recipe.seed)
    return model, course.run(Distilled(model, target) if is_distilled else NextToken(model, target))


def train_head(
    target: PreTrainedModel, plan: HeadPlan, course: Course
) -> tuple[HeadNetwork, Progress]:
    """A head for a target, on the target's distributions some tokens ahead."""
    torch.manual_seed(course.recipe.seed)
    draft_ids = None
    if plan.num_drafts is not None:
        vocab_size = target.config.get_text_config().vocab_size
        draft_ids = frequent_ids(course.streams.train, vocab_size, plan.num_drafts)
    head = new_head(target, plan.intermediate_size, plan.layers, draft_ids)
    return head, course.run(TrainingTimeTest(head, target, plan.num_steps))


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    max_shard_size: str = "5GB",
) -> None:
    """Write a model in bfloat16, in Hugging Face layout, with its tokenizer."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.bfloat16().save_pretrained(folder, max_shard_size=max_shard_size)
    model.float()
    tokenizer.save_pretrained(folder)
    if was_enabled:
        logging.enable_progress_bar()
