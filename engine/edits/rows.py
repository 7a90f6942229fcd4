"""The edits of texts, and rows of logits under them: all rows of a kind of edit at once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.edits.bans import Bans
from engine.edits.bias import Bias
from engine.edits.dry import Dry
from engine.edits.edit import Edit, Touched
from engine.edits.penalties import Penalties
from engine.request import SamplingParams

Edits = Mapping[type[Edit], Edit]
"""The edits of one text, by their kind; empty for most texts."""

_ORDER: tuple[type[Edit], ...] = (Bias, Penalties, Dry, Bans)


class EditedRow(NamedTuple):
    """A row of logits: the edits of its text, the text's tokens and the path of the row's node."""

    edits: Edits
    tokens: Sequence[int]
    path: Sequence[int]


def edits_of(
    params: SamplingParams, vocab_size: int, num_prompt: int, stop_ids: frozenset[int]
) -> Edits:
    """What a text's parameters ask for; its first `num_prompt` tokens are its prompt."""
    edits: dict[type[Edit], Edit] = {}
    if params.logit_bias:
        edits[Bias] = Bias(params.logit_bias)
    if params.is_penalised:
        edits[Penalties] = Penalties(params, num_prompt)
    if params.is_dry:
        edits[Dry] = Dry(params)
    if params.allowed_token_ids or params.bad_words or params.min_tokens:
        edits[Bans] = Bans(params, vocab_size, num_prompt, stop_ids)
    return edits


def edited(logits: Tensor, rows: Sequence[EditedRow]) -> Tensor:
    """Logits (rows, vocabulary) as the edits of each row leave them, in float32: a copy."""
    logits = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    for kind in _ORDER:
        touched = {
            row: edits[kind].touched(tokens, path)
            for row, (edits, tokens, path) in enumerate(rows)
            if kind in edits
        }
        if touched:
            places, figures = _joined(touched, logits.shape[-1])
            there = torch.from_numpy(places), torch.from_numpy(figures)
            kind.apply(logits.view(-1), *(each.to(logits.device) for each in there))
    return logits


def _joined(touched: Mapping[int, Touched], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in rows that lie one behind the other, and their figures; a row may be narrow."""
    inside = {row: ids < width for row, (ids, _) in touched.items()}
    places = [ids[inside[row]] + row * width for row, (ids, _) in touched.items()]
    figures = [figures[:, inside[row]] for row, (_, figures) in touched.items()]
    return np.concatenate(places), np.concatenate(figures, axis=1)
