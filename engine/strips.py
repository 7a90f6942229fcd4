"""A network's cache, parted into strips: one for each seat, and a spare one behind them."""

from collections.abc import Callable, Sequence

from torch import Tensor

from engine.geometry import SPARE_ROWS, strip_rows
from engine.kv_cache import Cache, KVCache, rows_like
from engine.memory import num_that_fit, require
from engine.rows import Rows, Seated

_LEAST_COPY = 16
"""Tokens: to read so few again is as cheap as to copy their rows."""
_COPIED_AT_ONCE = 512
"""Rows of all layers, which lie twice in memory meanwhile."""
_MOST_SEATS = {"cpu": 4}
_MOST_SEATS_ELSEWHERE = 8


class Strips:
    """The rows of every seat, in one cache: those of a text are where it sits.

    What a seat's last text and the next one have in common stays, and what a neighbour knows more
    of the next one is copied; but a text of another salt has nothing in common with anybody.
    """

    def __init__(
        self,
        num_seats: int,
        max_model_len: int,
        probe: Callable[[Cache], object],
        offset: int = 0,
        boundary: int | None = None,
    ) -> None:
        size, like = strip_rows(max_model_len), rows_like(probe)
        self.seats = [Rows(seat * size, size, offset, boundary, seat) for seat in range(num_seats)]
        self.spare = Rows(num_seats * size, SPARE_ROWS, seat=num_seats)
        """Where the rows lie that nobody reads."""
        capacity = num_seats * size + SPARE_ROWS
        require(
            capacity * _row_bytes(like),
            like[0].device,
            f"a cache of {num_seats} x {size} rows",
            "choose a lower max_model_len, or a lower max_running.",
        )
        self.cache = KVCache(capacity, like)

    def of(self, text: Seated) -> Rows:
        """The rows of a text; when it comes to sit, whatever is known of it already."""
        rows = self.seats[text.seat]
        if rows.text is not text:
            if not rows.is_open_to(text):
                rows.forget()
            rows.text = text
            rows.keep(text.tokens)
            known = [
                other.known(text.tokens) if other.is_open_to(text) else 0 for other in self.seats
            ]
            best = self.seats[known.index(count := max(known))]
            if count >= len(rows.tokens) + _LEAST_COPY and best.is_long == rows.is_long:
                sources, targets = rows.copy(best, count)
                for start in range(0, len(sources), _COPIED_AT_ONCE):
                    end = start + _COPIED_AT_ONCE
                    self.cache.move(sources[start:end], targets[start:end])
        return rows

    def known(self, seat: int, text: Seated) -> int:
        """How many of a text's tokens would have their rows at this seat, without a copy.

        None where more would be forgotten than kept: the beginning that all prompts share is copied
        to a seat that has less to lose.
        """
        rows = self.seats[seat]
        count = rows.known(text.tokens) if rows.is_open_to(text) else 0
        return count if 2 * count >= len(rows.tokens) else 0

    def rollback(self) -> None:
        """Forget the rows of trees."""
        for rows in self.seats:
            rows.rollback()

    def forget(self) -> None:
        """Forget all texts."""
        for rows in self.seats:
            rows.forget()


def num_seats_for(
    probe: Callable[[Cache], object], max_model_len: int, num_engines: int = 1
) -> tuple[int, str]:
    """How many texts to seat where nobody has said it, and why: as memory and the device allow."""
    like = rows_like(probe)
    device = like[0].device
    most = _MOST_SEATS.get(device.type, _MOST_SEATS_ELSEWHERE)
    num_bytes = strip_rows(max_model_len) * _row_bytes(like)
    count = num_that_fit(num_bytes, device, most, num_engines)
    size = f"{num_bytes / 1e6:.0f} MB each for a window of {max_model_len}"
    if count < most:
        return count, f"half of the free memory holds no more, {size}"
    return count, f"the default on {device.type}, {size}"


def _row_bytes(like: Sequence[Tensor]) -> int:
    return sum(rows.nbytes for rows in like)
