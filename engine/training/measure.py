"""What a drafter is worth: how often it says what its target says, and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from engine.drafting.katz import KatzTable
from engine.rows import Tokens
from engine.scorer import TreeScorer
from engine.tree import TokenTree

_WARM_UP_PASSES = 4


def expected_accepted(agreement: Sequence[float], length: int) -> float:
    """Drafts of a chain that are accepted on average, if it agrees with the target this often.

    `agreement[k]` is for the (k+1)-th token ahead, the last one for all beyond it. A draft counts
    when all before it were accepted too.
    """
    ahead = [*agreement, *[agreement[-1]] * length][:length]
    return float(np.cumprod(ahead).sum())


def pass_milliseconds(scorer: TreeScorer, context: Sequence[int], num_passes: int = 40) -> float:
    """The median time of scoring one token behind a text in the cache, and of its first choice."""
    text, times = Tokens([*context]), []
    for _ in range(_WARM_UP_PASSES + num_passes):
        scorer.strips.rollback()
        started = time.perf_counter()
        scorer.score([text], TokenTree(context[-1]))[-1].argmax().item()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[_WARM_UP_PASSES:])


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
