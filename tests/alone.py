"""One text at the first seat of a network, told by its tokens alone: for tests of scoring."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.rows import Rows, Seated, Tokens
from engine.scorer import TreeScorer
from engine.tree import TokenTree


@dataclass(frozen=True, slots=True)
class Alone:
    """A scorer that is given texts as lists of tokens, each the last one with more of it."""

    scorer: TreeScorer

    @property
    def rows(self) -> Rows:
        """Those of the first seat."""
        return self.scorer.strips.seats[0]

    def reset(self, tokens: Sequence[int]) -> None:
        """Another text sits."""
        self.scorer.strips.of(Tokens([*tokens]))

    def read(self, tokens: Sequence[int]) -> bool:
        """Read a chunk of it."""
        return self.scorer.read(self._text(tokens))

    def score(
        self, tokens: Sequence[int], tree: TokenTree, nodes: Sequence[int] | None = None
    ) -> Tensor:
        """Score nodes of a tree behind it."""
        return self.scorer.score([self._text(tokens)], tree, nodes)

    def commit(self, tree: TokenTree, path: Sequence[int]) -> None:
        """Keep the root and a path."""
        text = self.rows.text
        assert text is not None
        self.scorer.commit([text], tree, [[0, *path]])

    def rollback(self) -> None:
        """Keep nothing of the tree."""
        self.scorer.strips.rollback()

    def _text(self, tokens: Sequence[int]) -> Seated:
        text = self.rows.text
        if text is None:
            text = Tokens([])
            self.scorer.strips.of(text)
        text.tokens[:] = tokens
        return text
