"""A choice told as a message: what each piece adds to it, part by part."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from server.message import Added, Message, Part, ReplyReader, Telling
from server.piece import Piece
from server.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Step:
    """A part begins, has more text, or ends; the `part` has what is new, or all at its end.

    It ends where another begins or the reply is over, in which case it `is_last`.
    """

    does: Literal["begin", "grow", "end"]
    number: int
    rank: int
    part: Part
    is_last: bool = False


class ReplyTelling:
    """Tells one choice; mutable. `is_begun` is for whoever tells it.

    When it is over, the `record` knows how many of its tokens were reasoning: those that begin
    before the mark at its end does.
    """

    def __init__(self, reader: ReplyReader, record: RequestRecord) -> None:
        self.is_begun = False
        self.has_calls = False
        self._telling = Telling(reader)
        self._record = record
        self._offsets: list[int] = []
        self._open: Added | None = None

    def read(self, piece: Piece) -> Message:
        """The message that a whole choice is."""
        self.push(piece)
        return self._telling.told

    def push(self, piece: Piece) -> list[Added]:
        """What a piece adds."""
        is_over = piece.finish_reason is not None
        added = self._telling.push(piece.text, is_over)
        self.has_calls |= any(each.part.kind == "call" for each in added)
        self._offsets += piece.offsets
        if is_over:
            end = self._telling.reasoning_end
            self._record.num_reasoning_tokens += bisect_left(self._offsets, end)
        return added

    def steps(self, piece: Piece) -> Iterator[Step]:
        """The same, each part from its beginning to its end, one after another."""
        for added in self.push(piece):
            if added.is_new:
                yield from self._end(is_last=False)
                self._open = added
                nothing = replace(added.part, text="")
                yield Step("begin", added.number, added.rank, nothing)
            if added.part.text:
                yield Step("grow", added.number, added.rank, added.part)
        if piece.finish_reason is not None:
            yield from self._end(is_last=True)

    def _end(self, is_last: bool) -> Iterator[Step]:
        if self._open is not None:
            number, rank = self._open.number, self._open.rank
            self._open = None
            yield Step("end", number, rank, self._telling.told.parts[number], is_last)
