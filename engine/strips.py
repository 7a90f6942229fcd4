"""A network's cache, parted into strips: one for each seat, and a spare one behind them."""

from collections.abc import Callable, Sequence

from engine.geometry import SPARE_ROWS, strip_rows
from engine.kv_cache import Cache, KVCache
from engine.rows import Rows, Seated

_LEAST_COPY = 16
"""Tokens: to read so few again is as cheap as to copy their rows."""


class Strips:
    """The rows of every seat, in one cache: those of a text are where it sits.

    What a seat's last text and the next one have in common stays, and what a neighbour knows more
    of the next one is copied.
    """

    def __init__(
        self,
        num_seats: int,
        max_model_len: int,
        probe: Callable[[Cache], object],
        offset: int = 0,
        boundary: int | None = None,
    ) -> None:
        size = strip_rows(max_model_len)
        self.seats = [Rows(seat * size, size, offset, boundary, seat) for seat in range(num_seats)]
        self.spare = Rows(num_seats * size, SPARE_ROWS, seat=num_seats)
        """Where the rows lie that nobody reads."""
        self.cache = KVCache.of(num_seats * size + SPARE_ROWS, probe)

    def of(self, text: Seated) -> Rows:
        """The rows of a text; when it comes to sit, whatever is known of it already."""
        rows = self.seats[text.seat]
        if rows.text is not text:
            rows.text = text
            rows.keep(text.tokens)
            best = max(self.seats, key=lambda other: other.known(text.tokens))
            count = best.known(text.tokens)
            if count >= len(rows.tokens) + _LEAST_COPY and best.is_long == rows.is_long:
                self.cache.move(*rows.copy(best, count))
        return rows

    def known(self, seat: int, tokens: Sequence[int]) -> int:
        """How many of a text's tokens would have their rows at this seat, without a copy."""
        return self.seats[seat].known(tokens)

    def rollback(self) -> None:
        """Forget the rows of trees."""
        for rows in self.seats:
            rows.rollback()

    def forget(self) -> None:
        """Forget all texts."""
        for rows in self.seats:
            rows.forget()
