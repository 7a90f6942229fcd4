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
    """What rows change in the state: keys (rows, heads, key size), updates (rows, heads, value
    size), and the logarithm of the decay (rows, heads)."""

    keys: Tensor
    updates: Tensor
    decays: Tensor

    def of(self, rows: Tensor | slice) -> "Changes":
        """Those of some rows."""
        return Changes(*(each[rows] for each in self))

    def before(self, later: "Changes") -> "Changes":
        """These, and later ones."""
        return Changes(*map(torch.cat, zip(self, later, strict=True)))


class Asked(NamedTuple):
    """What rows ask and bring, in float32: queries and keys (rows, heads, key size), values (rows,
    heads, value size), logarithms of decays (rows, heads) and the rates beta, if a delta rule
    corrects what is known already."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    decays: Tensor
    rates: Tensor | None = None

    def of(self, rows: slice) -> "Asked":
        """Those of some rows."""
        rates = None if self.rates is None else self.rates[rows]
        queries, keys, values, decays = (each[rows] for each in self[:4])
        return Asked(queries, keys, values, decays, rates)


def recur(
    asked: Asked, state: Tensor, earlier: Changes | None, sees: Tensor
) -> tuple[Tensor, Changes]:
    """What each row reads, (rows, heads, value size), and what it changes.

    `state` (heads, key size, value size) is that of the committed text, `earlier` are the changes
    of rows scored before, and `sees` is a descent's.
    """
    queries, keys, values, decays = (each.transpose(0, 1) for each in asked[:4])
    all_keys, all_decays = keys, decays
    if earlier is not None:
        all_keys = torch.cat([earlier.keys.transpose(0, 1), keys], dim=1)
        all_decays = torch.cat([earlier.decays.transpose(0, 1), decays], dim=1)
    from_state, between = _decay(all_decays, sees)
    reading, known = all_keys.transpose(1, 2), values[:, :0]
    if earlier is not None:
        known = earlier.updates.transpose(0, 1)
    updates, num_earlier = values, known.shape[1]
    if asked.rates is not None:
        rates = asked.rates.transpose(0, 1)[..., None]
        system = rates * (keys @ reading) * between
        right = rates * (values - from_state * (keys @ state)) - system[..., :num_earlier] @ known
        # Of itself a row reads nothing: what lies on the diagonal counts as one.
        own = system[..., num_earlier:]
        updates = torch.linalg.solve_triangular(own, right, upper=False, unitriangular=True)
    weights = (queries @ reading) * between
    read = from_state * (queries @ state) + weights @ torch.cat([known, updates], dim=1)
    return read.transpose(0, 1), Changes(asked.keys, updates.transpose(0, 1), asked.decays)


def _decay(decays: Tensor, sees: Tensor) -> tuple[Tensor, Tensor]:
    """How much is left at each row of the committed state, (heads, rows, 1), and of what each row
    has changed, (heads, rows, columns): nothing of what is none of its ancestors'."""
    own = torch.where(sees, decays[:, None, :], 0.0)
    # Summed from a row towards the root, since what is near must be exact.
    onwards = own.flip(2).cumsum(2).flip(2)
    after = torch.nn.functional.pad(onwards[..., 1:], (0, 1))
    return onwards[..., :1].exp(), torch.where(sees, after.exp(), 0.0)


def folded(state: Tensor, path: Changes) -> Tensor:
    """The state (heads, key size, value size) behind a path from it."""
    onwards = path.decays.flip(0).cumsum(0).flip(0)
    after = torch.nn.functional.pad(onwards[1:], (0, 0, 0, 1)).exp()
    keys = (path.keys * after[..., None]).permute(1, 2, 0)
    left = state * onwards[0].exp()[:, None, None]
    return torch.baddbmm(left, keys, path.updates.transpose(0, 1))
