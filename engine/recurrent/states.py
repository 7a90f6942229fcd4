"""The states of all linear layers of a network, and what one pass sees of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.recurrent.descent import Descent, descents
from engine.recurrent.layer import KeptByLayer, LinearLayer
from engine.recurrent.recurrence import Asked


class States:
    """Of `num_seats` texts, whose rows in a cache lie in strips of `strip`, and of a spare one.

    `layers` are by their numbers in the network; those `with_rows` have rows in the cache.
    """

    def __init__(
        self,
        kept: Mapping[int, KeptByLayer],
        with_rows: Sequence[int],
        num_seats: int,
        strip: int,
    ) -> None:
        self.with_rows, self.strip = with_rows, strip
        self.num_bytes = sum(layer.num_bytes for layer in kept.values())
        """Of one text's states."""
        with torch.inference_mode(False):
            self.layers = {n: LinearLayer(layer, num_seats + 1) for n, layer in kept.items()}

    def of_pass(self, places: Tensor, visible: Tensor) -> "StatesOfPass":
        """What layers see of them in a pass; see `descents`."""
        texts = descents(places, visible, self.strip)
        by_layer = {number: PassStates(layer, texts) for number, layer in self.layers.items()}
        return StatesOfPass(by_layer, self.with_rows)

    @torch.inference_mode()
    def fold(self, seat: int, path: Sequence[int]) -> None:
        """Take rows of a seat, by their numbers behind its committed text, into its states."""
        rows = torch.tensor(path, device=next(iter(self.layers.values())).tails.device)
        for layer in self.layers.values():
            layer.fold(seat, rows)

    def drop(self, seat: int, num_rows: int | None = None) -> None:
        """Forget the first of these rows, or all of them."""
        for layer in self.layers.values():
            layer.drop(seat, num_rows)

    @torch.inference_mode()
    def copy(self, seat: int) -> list[Tensor]:
        """A copy of a seat's states."""
        return [each.clone() for layer in self.layers.values() for each in layer.state(seat)]

    @torch.inference_mode()
    def restore(self, seat: int, copied: Sequence[Tensor] | None) -> None:
        """Let a seat's states be these, or those of an empty text."""
        states = [each for layer in self.layers.values() for each in layer.state(seat)]
        for index, state in enumerate(states):
            if copied is None:
                state.zero_()
            else:
                state.copy_(copied[index])


class Windows(NamedTuple):
    """What a convolution sees at each row: (rows, channels, size)."""

    inputs: Tensor


class PassStates(NamedTuple):
    """A layer's states as one pass sees them: handed from the cache to our functions."""

    layer: LinearLayer
    texts: Sequence[Descent]

    def windows(self, inputs: Tensor) -> Windows:
        """Of the convolution's inputs (1, channels, rows), which are kept."""
        rows = inputs[0].T
        return Windows(_joined([self.layer.windows(rows[each.own], each) for each in self.texts]))

    def recur(self, asked: Asked) -> Tensor:
        """What rows read of their ancestors: (1, rows, heads, value size), in float32."""
        read = [self.layer.recur(asked.of(each.own), each) for each in self.texts]
        return _joined(read)[None].contiguous()


class StatesOfPass(NamedTuple):
    """The states of layers by their numbers, and the numbers of layers that have rows."""

    by_layer: Mapping[int, PassStates]
    with_rows: Sequence[int]


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)
