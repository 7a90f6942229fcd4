"""The states of all linear layers of a network, and what one pass sees of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.geometry import MAX_STATE_ROWS
from engine.recurrent.forest import (
    Forest,
    Grouping,
    Lineage,
    Paths,
    Sizes,
    kept_at,
    numbers_and_seats,
)
from engine.recurrent.layer import KeptByLayer, LinearLayers, Recurrent
from engine.recurrent.recurrence import Asked, Changes, recur


class States:
    """Of `num_seats` texts, whose rows in a cache lie in strips of `strip`, and of a spare one.

    `kept` are the layers by their numbers in the network; those `with_rows` have rows in the cache.
    """

    def __init__(
        self,
        kept: Mapping[int, KeptByLayer],
        with_rows: Sequence[int],
        num_seats: int,
        strip: int,
    ) -> None:
        self.with_rows, self.strip, self._num_seats = with_rows, strip, num_seats
        self.num_bytes = sum(layer.num_bytes for layer in kept.values())
        """Of one text's states."""
        self.alike: list[LinearLayers] = []
        self._places: dict[int, tuple[LinearLayers, int]] = {}
        for shape in dict.fromkeys(layer.shape for layer in kept.values()):
            numbers = [number for number, layer in kept.items() if layer.shape == shape]
            # Tensors made in inference mode could not be written to by what compiles a pass.
            with torch.inference_mode(False):
                layers = LinearLayers(kept[numbers[0]], len(numbers), num_seats)
            self.alike.append(layers)
            self._places |= {number: (layers, i) for i, number in enumerate(numbers)}
        self.tensors = [
            each for layers, index in self._places.values() for each in layers.tensors(index)
        ]
        """All that passes read and write, layer by layer."""

    def sizes(self, width: int) -> tuple[Sizes, Sizes]:
        """The most that any pass of that width has, if it is its texts' first, and if it is not."""
        num_texts = min(width, self._num_seats + 1)
        return Sizes(num_texts, width, 1), Sizes(num_texts, width, MAX_STATE_ROWS)

    def grouping(self, rows: Tensor, sizes: Sizes | None = None) -> Grouping:
        """Of the `rows` of a pass's inputs, of these sizes or of those that it has."""
        return Grouping.of(rows[1].tolist(), rows[4].tolist(), sizes)

    def of_pass(
        self, rows: Tensor, visible: Tensor, grouping: Grouping, tensors: Iterable[Tensor]
    ) -> "StatesOfPass":
        """What layers see of them in a pass over rows as in `PassInputs`, in tensors like ours."""
        given = Lineage(rows, visible, grouping, self.strip)
        forest, left = given.forest(), iter(tensors)
        paths = {size: given.paths(size) for size in {layers.size for layers in self.alike}}
        by_layer = {
            number: PassStates(forest, paths[layers.size], next(left), _recurrent(layers, left))
            for number, (layers, _) in self._places.items()
        }
        return StatesOfPass(by_layer, self.with_rows)

    @property
    def seats(self) -> range:
        """Their numbers; the last one is the spare one's."""
        return range(self._num_seats + 1)

    def written(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        """Which of `tensors` a pass over rows as in `PassInputs` writes, and which rows of each."""
        numbers, seats = numbers_and_seats(rows, self.strip)
        found: list[tuple[int, Tensor]] = []
        for layers, _ in self._places.values():
            start = found[-1][0] + 1 if found else 0
            found.append((start, kept_at(seats, numbers, layers.size - 1)))
            if layers.recurrent is not None:
                found += [(start + place, kept_at(seats, numbers)) for place in (2, 3, 4)]
        return found

    @torch.inference_mode()
    def fold(self, seat: int, path: Sequence[int]) -> None:
        """Take rows of a seat, by their numbers behind its committed text, into its states."""
        rows = torch.tensor(path, device=self.tensors[0].device)
        for layers in self.alike:
            layers.fold(seat, rows)

    @torch.inference_mode()
    def shift(self, seat: int, num_dropped: int, num_rows: int) -> None:
        """Forget the first of these rows, which so many follow that stay."""
        for layers in self.alike:
            layers.shift(seat, num_dropped, num_rows)

    @torch.inference_mode()
    def copy(self, seat: int) -> list[Tensor]:
        """A copy of a seat's states."""
        return [each.clone() for layers in self.alike for each in layers.state(seat)]

    @torch.inference_mode()
    def restore(self, seat: int, copied: Sequence[Tensor] | None) -> None:
        """Let a seat's states be these, or those of an empty text."""
        states = [each for layers in self.alike for each in layers.state(seat)]
        for index, state in enumerate(states):
            if copied is None:
                state.zero_()
            else:
                state.copy_(copied[index])


def _recurrent(layers: LinearLayers, tensors: Iterator[Tensor]) -> Recurrent | None:
    if layers.recurrent is None:
        return None
    return Recurrent(*(next(tensors) for _ in Recurrent._fields))


class Windows(NamedTuple):
    """What a convolution sees at each row: (rows, channels, size)."""

    inputs: Tensor


class PassStates(NamedTuple):
    """A layer's states as one pass sees them: handed from the cache to our functions."""

    forest: Forest
    paths: Paths
    inputs: Tensor
    recurrent: Recurrent | None

    def windows(self, inputs: Tensor) -> Windows:
        """Of the convolution's inputs (1, channels, rows), which are kept."""
        self.inputs.index_copy_(0, self.paths.own, inputs[0].T)
        return Windows(self.inputs[self.paths.windows].transpose(1, 2))

    def recur(self, asked: Asked) -> Tensor:
        """What rows read of their ancestors: (1, rows, heads, value size), in float32.

        What they change is kept. The state has keys on its left.
        """
        assert self.recurrent is not None
        forest, (states, *kept) = self.forest, self.recurrent
        earlier = Changes(*map(forest.earlier, kept))
        by_text = asked.of(forest.own)
        found = recur(by_text, states[forest.seats], earlier, forest.sees)
        read, updates = (each.flatten(0, 1)[forest.places] for each in found)
        for each, rows in zip(kept, (asked.keys, updates, asked.decays), strict=True):
            each.index_copy_(0, forest.targets, rows)
        return read[None]

    def turned(self) -> "PassStates":
        """The same, of a state that has keys on its right."""
        assert self.recurrent is not None
        return self._replace(recurrent=self.recurrent.turned())


class StatesOfPass(NamedTuple):
    """The states of layers by their numbers, and the numbers of layers that have rows."""

    by_layer: Mapping[int, PassStates]
    with_rows: Sequence[int]
