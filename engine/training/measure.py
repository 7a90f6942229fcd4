"""How often one member of the family says what another one would: agreement of first choices."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from engine.drafting.katz import KatzTable


@torch.inference_mode()
def first_choices(model: PreTrainedModel, ids: Tensor) -> NDArray[np.int64]:
    """The model's likeliest next token after every prefix of ids [1, N]: [N]."""
    choices: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits[0].argmax(-1)
    return choices.cpu().numpy()


def table_choices(table: KatzTable, ids: Tensor) -> NDArray[np.int64]:
    """The table's likeliest next token after every prefix of ids [1, N]: [N]."""
    tokens = ids[0].tolist()
    pairs = zip([-1, *tokens], tokens, strict=False)
    return np.array([table.continuations(before, last)[0][0] for before, last in pairs])


def model_agreement(
    draft: PreTrainedModel, target: PreTrainedModel, texts: Iterable[Tensor]
) -> float:
    """The share of positions in texts [1, N] where the draft's first choice is the target's."""
    return _share_equal((first_choices(draft, ids), first_choices(target, ids)) for ids in texts)


def table_agreement(table: KatzTable, draft: PreTrainedModel, texts: Iterable[Tensor]) -> float:
    """The share of positions in texts [1, N] where the table's first choice is the draft's."""
    return _share_equal((table_choices(table, ids), first_choices(draft, ids)) for ids in texts)


def _share_equal(pairs: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> float:
    return float(np.concatenate([mine == theirs for mine, theirs in pairs]).mean())
