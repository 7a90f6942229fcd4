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
from engine.grammar import Following, Matcher, forbid
from engine.request import SamplingParams

Edits = Mapping[type[Edit], Edit]
"""The edits of one text, by their kind; empty for most texts."""

_ORDER: tuple[type[Edit], ...] = (Bias, Penalties, Dry, Bans)


class EditedRow(NamedTuple):
    """A row of logits: the edits of its text, the text's tokens and the path of the row's node.

    A `grammar` is where a constrained text stands.
    """

    edits: Edits
    tokens: Sequence[int]
    path: Sequence[int]
    grammar: Matcher | None = None


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
    whole = logits
    logits = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    for kind in _ORDER:
        touched = {
            number: row.edits[kind].touched(row.tokens, row.path)
            for number, row in enumerate(rows)
            if kind in row.edits
        }
        if touched:
            places, figures = _joined(touched, logits.shape[-1])
            there = torch.from_numpy(places), torch.from_numpy(figures)
            kind.apply(logits.view(-1), *(each.to(logits.device) for each in there))
    if any(row.grammar is not None for row in rows):
        _constrain(logits, rows, whole)
    return logits


def _constrain(logits: Tensor, rows: Sequence[EditedRow], whole: Tensor) -> None:
    """Leave of edited rows what grammars allow, in place; `whole` are the logits before all edits.

    A row of which that leaves nothing is what the grammar leaves of it without bans; and where that
    is nothing, in a broken network's row, all that the grammar allows is alike.
    """
    following = _following(rows)
    forbid(logits, [*following.items()])
    is_lost = ~(logits.amax(dim=-1) > -np.inf)
    for number in is_lost.nonzero()[:, 0].tolist():
        if number not in following:
            continue
        row, there = rows[number], logits[number : number + 1]
        if Bans in row.edits:
            edits = {kind: edit for kind, edit in row.edits.items() if kind is not Bans}
            there.copy_(edited(whole[number : number + 1], [row._replace(edits=edits)]))
        else:
            there.zero_()
            forbid(there, [(0, following[number])])


def _following(rows: Sequence[EditedRow]) -> dict[int, Following]:
    """What may follow in the rows of constrained texts; of each text all are asked for at once."""
    own: dict[Matcher, list[int]] = {}
    for number, row in enumerate(rows):
        if row.grammar is not None:
            own.setdefault(row.grammar, []).append(number)
    found: dict[int, Following] = {}
    for grammar, numbers in own.items():
        paths = [rows[number].path for number in numbers]
        found |= zip(numbers, grammar.following(rows[numbers[0]].tokens, paths), strict=True)
    return found


def _joined(touched: Mapping[int, Touched], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in rows that lie one behind the other, and their figures; a row may be narrow."""
    inside = {row: ids < width for row, (ids, _) in touched.items()}
    places = [ids[inside[row]] + row * width for row, (ids, _) in touched.items()]
    figures = [figures[:, inside[row]] for row, (_, figures) in touched.items()]
    return np.concatenate(places), np.concatenate(figures, axis=1)
