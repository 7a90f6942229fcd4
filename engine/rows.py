"""Where one text's rows lie in one network's cache.

    first       committed tokens       prefix       nodes of the tree, as they were scored
      | .. .. .. .. .. .. .. .. .. .. .. | .. .. .. .. .. .. .. .. .. .. .. .. | free ..

What is kept are the tokens and the nodes; where they lie follows from their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.prefix import num_common
from engine.recurrent import NoState, SeatState
from engine.tree import TokenTree


class Seated(Protocol):
    """A text as a network sees it: tokens, which only ever grow, and the number of its seat.

    One that is read anew keeps no rows that were there before it.
    """

    tokens: list[int]
    seat: int

    @property
    def salt(self) -> str | None:
        """Its rows are of use to texts of the same salt alone."""

    @property
    def is_read_anew(self) -> bool:
        """It takes no rows of anybody."""


@dataclass(eq=False, slots=True)
class Tokens:
    """A text that is no more than its tokens."""

    tokens: list[int]
    seat: int = 0
    salt: str | None = None
    is_read_anew: bool = False


class Rows:
    """The rows of one text in a cache, from row `first` on, `capacity` at the most.

    `tokens` are the committed tokens that the network has read, of which those before index
    `offset` have no row; `nodes` are those of a tree that it has scored since the last commit or
    rollback. `carried` is, by node, what its row hands down to its children's beside what is in the
    cache. A text of more than `boundary` tokens with rows `is_long`: all of them are others then.
    `text` is whose they are: of a text that has ended they are kept until the place is needed.
    Layers without rows have a `state` of the committed text.
    """

    def __init__(
        self,
        first: int,
        capacity: int,
        offset: int = 0,
        boundary: int | None = None,
        seat: int = 0,
        state: SeatState | None = None,
    ) -> None:
        self.first, self.seat = first, seat
        self.state = state or NoState()
        self.text: Seated | None = None
        self.tokens: list[int] = []
        self.nodes: list[int] = []
        self.carried: dict[int, Tensor] = {}
        self.is_long = False
        self._capacity, self._offset, self._boundary = capacity, offset, boundary

    @property
    def prefix(self) -> int:
        """The row of the cache where those of committed tokens end."""
        num_rows = len(self.tokens) - self._offset
        return self.first + num_rows if num_rows > 0 else self.first

    def known(self, text: Seated) -> int:
        """How many tokens a text, but for its last, has in common with this one.

        None if they are another salt's, or if it is to be read anew; no more than states reach.
        """
        is_shared = self.text is None or self.text.salt == text.salt
        if not is_shared or text.is_read_anew:
            return 0
        count = min(num_common(self.tokens, text.tokens), max(0, len(text.tokens) - 1))
        return self.state.reach(count)

    def keep(self, text: Seated) -> None:
        """Go on with this text: forget whatever it has not in common with the last one."""
        self.rollback()
        self.fit(text.tokens)
        del self.tokens[self.known(text) :]
        self.state.cut(len(self.tokens))
        self.fit(text.tokens)
        self.text = text

    def fit(self, text: Sequence[int]) -> None:
        """Forget the rows if the text has grown across the boundary; count in what needs none."""
        is_long = self._boundary is not None and len(text) - self._offset > self._boundary
        if is_long != self.is_long:
            self.is_long = is_long
            self.tokens.clear()
            self.state.cut(0)
            self.rollback()
        if len(self.tokens) < self._offset:
            self.tokens[:] = text[: self._offset]

    def missing(self, text: Sequence[int]) -> Sequence[int]:
        """The committed tokens that have yet to be read: the last one, a tree's root, is none."""
        return text[len(self.tokens) : -1]

    def slots(self, num_rows: int) -> range:
        """The next rows of the cache. Raises ValueError if there are not so many."""
        start = self.prefix + len(self.nodes)
        if start + num_rows > self.first + self._capacity:
            end = start + num_rows - self.first
            raise ValueError(f"{end} rows do not fit a strip of {self._capacity}")
        return range(start, start + num_rows)

    def add(self, tokens: Sequence[int], nodes: Sequence[int]) -> None:
        """Count in the rows that a pass has just written, of tokens and then of nodes."""
        self.state.read(len(tokens), len(nodes))
        self.tokens.extend(tokens)
        self.nodes.extend(nodes)

    def copy(self, other: "Rows", count: int) -> tuple[range, range]:
        """Begin with the first `count` tokens of other rows, which begin as these do.

        Returns the rows that are to be copied, and where they belong.
        """
        self.rollback()
        start = max(0, len(self.tokens) - self._offset)
        end = max(start, count - self._offset)
        self.tokens[:], self.is_long = other.tokens[:count], other.is_long
        self.state.copy(other.state, count)
        return range(other.first + start, other.first + end), range(
            self.first + start, self.first + end
        )

    def commit(self, tree: TokenTree, kept: Sequence[int]) -> tuple[list[int], range]:
        """Make `kept`, a root and nodes of a path below it, all scored, committed tokens.

        All others are forgotten. Returns the rows that stay, and where they now belong.
        """
        start = self.prefix
        path = [self.nodes.index(node) for node in kept]
        self.state.accept(path)
        self.tokens.extend([tree.tokens[node] for node in kept])
        self.rollback()
        return [start + row for row in path], range(start, start + len(kept))

    def forget(self) -> None:
        """Nobody's rows, and none that are of use."""
        self.text = None
        self.tokens.clear()
        self.state.cut(0)
        self.rollback()

    def rollback(self) -> None:
        """Forget the tree's rows."""
        self.nodes, self.carried = [], {}
