"""Text that a model writes, in batches: what a table is counted from, or a draft is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from engine.errors import ConfigError
from engine.training.tokens import Stream, draw, id_type

_CACHE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How much to sample, and how: `temperature` 1.5 is the paper's (section 3.2).

    `origin` says whose text it is and what it was prompted with.
    """

    num_tokens: int
    temperature: float = 1.5
    num_sequences: int = 256
    length: int = 256
    prompt_length: int = 8
    origin: str = ""

    @property
    def num_batches(self) -> int:
        """Batches that make `num_tokens` or a little more."""
        return -(-self.num_tokens // (self.num_sequences * self.length))

    def fitting(self, model: PreTrainedModel) -> SamplePlan:
        """The same in batches whose cache takes 2 GiB of memory at most."""
        config = model.config.get_text_config()
        num_heads = config.num_attention_heads
        num_heads_kept = getattr(config, "num_key_value_heads", None) or num_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
        row = 2 * config.num_hidden_layers * num_heads_kept * head_dim * model.dtype.itemsize
        room = _CACHE_BYTES // (row * (self.length + self.prompt_length))
        return replace(self, num_sequences=max(1, min(self.num_sequences, room)))


def sample_texts(
    model: PreTrainedModel,
    stream: Stream,
    plan: SamplePlan,
    folder: Path,
    report: Callable[[float], None] = lambda share: None,
) -> Iterator[Stream]:
    """Texts [length] by the model, each after a few tokens of the stream, which are left out.

    Batches are kept in `folder`, and those that are there are not sampled again; `report` hears
    after each what share is there. Raises ConfigError if the folder holds samples of another plan.
    """
    _claim(folder, plan)
    for index in range(plan.num_batches):
        file = folder / f"{index:05}.npy"
        if not file.exists():
            prompts = draw(
                stream, index * plan.num_sequences, plan.num_sequences, plan.prompt_length - 1
            )
            ids = sample_batch(model, prompts, plan.length, plan.temperature, seed=index)
            partial = file.with_suffix(".partial")
            with partial.open("wb") as out:
                np.save(out, ids.numpy().astype(id_type(model.config.get_text_config().vocab_size)))
            partial.replace(file)
        report((index + 1) / plan.num_batches)
        yield from np.load(file)


def _claim(folder: Path, plan: SamplePlan) -> None:
    """Write down what the folder's samples are; a larger number of tokens goes on with them."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "plan.json"
    wanted = {**asdict(plan), "num_tokens": None}
    if not file.exists():
        file.write_text(json.dumps(wanted))
    elif json.loads(file.read_text()) != wanted:
        raise ConfigError(
            f"{folder} holds samples of another model, temperature or text: delete it, or choose "
            "another work folder."
        )


@torch.inference_mode()
def sample_batch(
    model: PreTrainedModel, prompts: Tensor, length: int, temperature: float, seed: int
) -> Tensor:
    """Continue prompts [B, P] by `length` tokens each at a temperature: ids [B, length]."""
    generator = torch.Generator(model.device).manual_seed(seed)
    cache = DynamicCache(config=model.config)
    ids, sampled = prompts.to(model.device), []
    for _ in range(length):
        output = model(input_ids=ids, past_key_values=cache, logits_to_keep=1)
        logits = output.logits[:, -1].float()
        # The largest of p / Exp(1) is a draw from p, without a normalising pass.
        waits = torch.empty_like(logits).exponential_(generator=generator)
        ids = (logits / temperature - waits.log()).argmax(-1, keepdim=True)
        sampled.append(ids)
    return torch.cat(sampled, dim=1).cpu()
