"""A network's cache, parted into strips: one for each seat, and a spare one behind them."""

from typing import NamedTuple

from torch import Tensor

from engine.geometry import SPARE_ROWS, strip_rows
from engine.kv_cache import Kept, KVCache
from engine.memory import Needs, num_that_fit, require
from engine.recurrent import SeatState, States, seat_bytes, spare_bytes
from engine.rows import Rows, Seated

LEAST_COPY = 16
"""Tokens: to read so few again is as cheap as to copy their rows."""
_COPIED_AT_ONCE = 512
"""Rows of all layers, which lie twice in memory meanwhile."""
_LEAST_WINDOW = 256
"""Tokens: with less room than for these nothing is of use."""
_MOST_SEATS = {"cpu": 4}
_MOST_SEATS_ELSEWHERE = 8
NOTHING = Needs()
"""Of a network that is alone."""


class Strips:
    """The rows of every seat, in one cache: those of a text are where it sits.

    What a seat's last text and the next one have in common stays, and what a neighbour knows more
    of the next one is copied; but a text of another salt has nothing in common with anybody.
    """

    def __init__(
        self,
        num_seats: int,
        max_model_len: int,
        kept: Kept,
        offset: int = 0,
        boundary: int | None = None,
    ) -> None:
        size = strip_rows(max_model_len)
        capacity = num_seats * size + SPARE_ROWS
        needs = needs_of(kept)
        require(
            capacity * needs.row_bytes + num_seats * needs.seat_bytes + needs.num_bytes,
            kept.rows[0].device,
            f"a cache of {num_seats} x {size} rows",
            "choose a lower max_model_len, or a lower max_running.",
        )
        self.cache = KVCache(capacity, kept.rows)
        self.states = States(kept.states, kept.numbers, num_seats, size) if kept.states else None
        """Of layers that have no rows; None if all have."""
        states = [
            SeatState(self.states, seat) if self.states else None for seat in range(num_seats)
        ]
        self.seats = [
            Rows(seat * size, size, offset, boundary, seat, state)
            for seat, state in enumerate(states)
        ]
        self.spare = Rows(num_seats * size, SPARE_ROWS, seat=num_seats)
        """Where the rows lie that nobody reads."""

    @property
    def tensors(self) -> list[Tensor]:
        """All that passes read and write: the cache's rows and what is kept in place of rows."""
        return [*self.cache.rows, *(self.states.tensors if self.states else ())]

    def of(self, text: Seated) -> Rows:
        """The rows of a text; when it comes to sit, whatever is known of it already."""
        rows = self.seats[text.seat]
        if rows.text is not text:
            rows.keep(text)
            self.borrow(text)
        return rows

    def borrow(self, text: Seated) -> None:
        """Copy the rows of whoever knows more of a text that sits, if that is worth it."""
        rows = self.seats[text.seat]
        known = [other.known(text) for other in self.seats]
        best = self.seats[known.index(count := max(known))]
        if count >= len(rows.tokens) + LEAST_COPY and best.is_long == rows.is_long:
            sources, targets = rows.copy(best, count)
            for start in range(0, len(sources), _COPIED_AT_ONCE):
                end = start + _COPIED_AT_ONCE
                self.cache.move(sources[start:end], targets[start:end])

    def known(self, seat: int, text: Seated) -> int:
        """How many of a text's tokens would have their rows at this seat, without a copy.

        None where more would be forgotten than kept: the beginning that all prompts share is copied
        to a seat that has less to lose.
        """
        rows = self.seats[seat]
        count = rows.known(text)
        return count if 2 * count >= len(rows.tokens) else 0

    def rollback(self) -> None:
        """Forget the rows of trees."""
        for rows in self.seats:
            rows.rollback()

    def forget(self) -> None:
        """Forget all texts."""
        for rows in self.seats:
            rows.forget()


class Seating(NamedTuple):
    """How long texts may be, how many sit at once, and why."""

    max_model_len: int
    num_seats: int
    reason: str


def plan_seats(
    kept: Kept,
    max_model_len: int | None,
    longest: int,
    num_seats: int = 0,
    num_engines: int = 1,
    beside: Needs = NOTHING,
) -> Seating:
    """As many seats (`num_seats`, if not 0) of such a window as memory and the device allow.

    A network has `kept` that of one token.
    Without a `max_model_len` texts may be as long as has room, and no longer than `longest`. The
    networks `beside` this one, which are still to be loaded, have as many seats.
    """
    device, needs = kept.rows[0].device, needs_of(kept) + beside
    row_bytes, promised = needs.row_bytes, needs.num_bytes
    most, shrunk = num_seats or _MOST_SEATS.get(device.type, _MOST_SEATS_ELSEWHERE), ""
    window = max_model_len or longest
    if max_model_len is None:
        wanted = strip_rows(window) + needs.seat_bytes // row_bytes
        each = max(num_seats, 1) * row_bytes
        rows = num_that_fit(each, device, wanted, num_engines, promised)
        if rows < wanted:
            window = max(longest - (wanted - rows), min(longest, _LEAST_WINDOW))
            shrunk = f"; half of the free memory has no room for a window of {longest}"
    num_bytes = strip_rows(window) * row_bytes + needs.seat_bytes
    size = f"{num_bytes / 1e6:.0f} MB each for a window of {window}{shrunk}"
    if num_seats:
        return Seating(window, num_seats, f"as configured, {size}")
    count = num_that_fit(num_bytes, device, most, num_engines, promised)
    if count < most:
        return Seating(window, count, f"half of the free memory holds no more, {size}")
    return Seating(window, count, f"the default on {device.type}, {size}")


def needs_of(kept: Kept) -> Needs:
    """Of a row in all layers that have rows, and of what seats, and the spare one, have beside."""
    rows = sum(each.nbytes for each in kept.rows)
    if not kept.states:
        return Needs(row_bytes=rows)
    layers = kept.states.values()
    sizes = sum(each.num_bytes for each in layers), sum(each.row_bytes for each in layers)
    return Needs(num_bytes=spare_bytes(*sizes), row_bytes=rows, seat_bytes=seat_bytes(*sizes))
