"""Token streams, the ids of many texts in a row, and the sequences that are drawn from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import ConfigError

Stream = NDArray[np.unsignedinteger[Any]]
"""Token ids [N] of many texts, one after the other, each closed by an end of text."""

SHORTEST = 16
"""Fewer tokens than this are no sequence to learn or to measure on."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def id_type(num_ids: int) -> type[np.uint16 | np.uint32]:
    """The smallest type that holds the ids 0 to `num_ids` - 1."""
    return np.uint16 if num_ids <= 1 << 16 else np.uint32


def draw(stream: Stream, first: int, count: int, length: int) -> Tensor:
    """Sequences `first` to `first + count` of a fixed endless order: ids [count, length + 1].

    Starts follow multiples of the golden ratio, which cover the stream evenly from the first
    sequence on, with no state and no repetition.
    """
    room = len(stream) - length
    starts = (np.arange(first, first + count) * _GOLDEN % 1.0 * room).astype(np.int64)
    sequences = np.stack([stream[start : start + length + 1] for start in starts])
    return torch.from_numpy(sequences.astype(np.int64))


def windows(
    stream: Stream, length: int, at_most: int, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """At most so many sequences of ids [1, length + 1], evenly spread; a short stream is one.

    Raises ConfigError if the stream is too short to measure anything on.
    """
    length = min(length, len(stream) - 1)
    if length < SHORTEST:
        raise ConfigError(
            f"the texts held out have {len(stream)} tokens, too few to measure on: give more text."
        )
    starts = range(0, len(stream) - length, length)
    stride = max(1, len(starts) // at_most)
    pieces = (stream[start : start + length + 1] for start in starts[::stride][:at_most])
    return [torch.from_numpy(piece.astype(np.int64))[None].to(device) for piece in pieces]


def frequent_ids(stream: Stream, vocab_size: int, count: int) -> list[int]:
    """The `count` ids that stand most often in a stream, ascending; of equals the lower ones."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(stream), 1 << 20):
        counts += np.bincount(stream[start : start + (1 << 20)], minlength=vocab_size)
    chosen = np.argsort(-counts, kind="stable")[:count]
    return sorted(chosen.tolist())
