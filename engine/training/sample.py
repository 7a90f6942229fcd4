"""Text that a model writes, in batches: what the n-gram table is counted from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from engine.training.trainer import Stream, draw


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How much to sample, and how: `temperature` 1.5 is the paper's (section 3.2)."""

    num_tokens: int
    temperature: float = 1.5
    num_sequences: int = 256
    length: int = 256
    prompt_length: int = 8

    @property
    def num_batches(self) -> int:
        """Batches that make `num_tokens` or a little more."""
        return -(-self.num_tokens // (self.num_sequences * self.length))


def sample_texts(
    model: PreTrainedModel, stream: Stream, plan: SamplePlan, folder: Path
) -> Iterator[NDArray[np.uint16]]:
    """Texts [length] by the model, each after a few tokens of the stream, which are left out.

    Batches are kept in `folder`, and those that are there are not sampled again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(plan.num_batches):
        file = folder / f"{index:05}.npy"
        if not file.exists():
            prompts = draw(
                stream, index * plan.num_sequences, plan.num_sequences, plan.prompt_length - 1
            )
            ids = sample_batch(model, prompts, plan.length, plan.temperature, seed=index)
            partial = file.with_suffix(".partial")
            with partial.open("wb") as out:
                np.save(out, ids.numpy().astype(np.uint16))
            partial.replace(file)
        yield from np.load(file)


@torch.inference_mode()
def sample_batch(
    model: PreTrainedModel, prompts: Tensor, length: int, temperature: float, seed: int
) -> Tensor:
    """Continue prompts [B, P] by `length` tokens each at a temperature: ids [B, length]."""
    generator = torch.Generator(model.device).manual_seed(seed)
    cache = DynamicCache(config=model.config)
    ids, sampled = prompts.to(model.device), []
    for _ in range(length):
        logits = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        # The largest of p / Exp(1) is a draw from p, without a normalising pass.
        waits = torch.empty_like(logits).exponential_(generator=generator)
        ids = (logits / temperature - waits.log()).argmax(-1, keepdim=True)
        sampled.append(ids)
    return torch.cat(sampled, dim=1).cpu()
