"""Gated linear recurrences over a tree: every node's own, by products under its ancestor mask.

A row's state is S' = e^g S + k u', where S is its parent's. In Mamba2 (Dao & Gu, "Transformers are
SSMs", 2405.21060, section 6) u is the row's value; by the gated delta rule (Yang, Kautz &
Hatamizadeh, "Gated Delta Networks", 2412.06464, eq. 10) it is beta (v - e^g S' k). Written out
along the path from the committed state that is a sum over ancestors (their sections on chunks,
which are chains), for the delta rule by a triangular system; a tree is the same under its mask.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Changes(NamedTuple):
    """What rows change in the state: keys (..., rows, heads, key size), updates (..., rows, heads,
    value size), and the logarithm of the decay (..., rows, heads)."""

    keys: Tensor
    updates: Tensor
    decays: Tensor


class Asked(NamedTuple):
    """What rows ask and bring, in float32: queries and keys (..., rows, heads, key size), values
    (..., rows, heads, value size), logarithms of decays (..., rows, heads) and the rates beta, if a
    delta rule corrects what is known already."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    decays: Tensor
    rates: Tensor | None = None

    def of(self, rows: Tensor) -> "Asked":
        """Those of some rows, of which there is one list: by whatever dimensions `rows` has."""
        rates = None if self.rates is None else self.rates[rows]
        queries, keys, values, decays = (each[rows] for each in self[:4])
        return Asked(queries, keys, values, decays, rates)


def recur(asked: Asked, state: Tensor, earlier: Changes, sees: Tensor) -> tuple[Tensor, Tensor]:
    """What each row of some texts reads and how it updates, (texts, rows, heads, value size) each.

    `state` (texts, heads, key size, value size) is that of the committed texts, `earlier` are the
    changes of rows scored before, and `sees` (texts, rows, earlier + rows) tells which of all rows
    are a row's ancestors, which lie before it, or the row itself.
    """
    queries, keys, values, decays = (each.transpose(1, 2) for each in asked[:4])
    former_keys, known, former_decays = (each.transpose(1, 2) for each in earlier)
    reading = torch.cat([former_keys, keys], dim=2).transpose(2, 3)
    from_state, between = _decay(torch.cat([former_decays, decays], dim=2), sees[:, None])
    updates, num_earlier = values, known.shape[2]
    if asked.rates is not None:
        rates = asked.rates.transpose(1, 2)[..., None]
        system = rates * (keys @ reading) * between
        right = rates * (values - from_state * (keys @ state)) - system[..., :num_earlier] @ known
        # Of itself a row reads nothing: what lies on the diagonal counts as one.
        own = system[..., num_earlier:]
        updates = torch.linalg.solve_triangular(own, right, upper=False, unitriangular=True)
    weights = (queries @ reading) * between
    read = from_state * (queries @ state) + weights @ torch.cat([known, updates], dim=2)
    return read.transpose(1, 2), updates.transpose(1, 2)


def _decay(decays: Tensor, sees: Tensor) -> tuple[Tensor, Tensor]:
    """How much is left at each row of the committed state, (texts, heads, rows, 1), and of what
    each row has changed, (texts, heads, rows, columns): nothing but of its ancestors."""
    own = torch.where(sees, decays[..., None, :], 0.0)
    # Summed from a row towards the root, since what is near must be exact.
    onwards = own.flip(3).cumsum(3).flip(3)
    after = torch.nn.functional.pad(onwards[..., 1:], (0, 1))
    return onwards[..., :1].exp(), torch.where(sees, after.exp(), 0.0)


def folded(state: Tensor, path: Changes) -> Tensor:
    """The states (layers, heads, key size, value size) behind a path from them, of changes (layers,
    rows, ...)."""
    onwards = path.decays.flip(1).cumsum(1).flip(1)
    after = torch.nn.functional.pad(onwards[:, 1:], (0, 0, 0, 1)).exp()
    keys = (path.keys * after[..., None]).permute(0, 2, 3, 1)
    left = state * onwards[:, 0].exp()[..., None, None]
    return left + keys @ path.updates.transpose(1, 2)
