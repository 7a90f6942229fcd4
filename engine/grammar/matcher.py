"""Where one text stands in its grammar: which tokens may follow it, and what lies below it.

A place is a path of tokens behind the text. What may follow there is a row of bits, of the text and
the path alone, so that it is the same with speculation and without. In rows that a tree asks for
neighbours share what they have in common: a walk over all of them takes each token once.

**One token.** Where only one string can come, as after `{"na` of a known name, many tokens may
begin it, and each would have to be chosen. There the longest token that stays within that string is
the only one that may follow: so the spelling of what is certain does not depend on chance, is near
the tokenizer's own (Uzan et al., arXiv 2403.01289: longest-match inference of BPE vocabularies),
and needs no choosing. Nothing is forced where a token would go on beyond what is certain.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import EngineError
from engine.grammar.vocabulary import Vocabulary
from engine.prefix import num_common
from engine.request import FinishReason

if TYPE_CHECKING:
    import xgrammar

Words = NDArray[np.int32]
"""A bit for every token, 32 a word, the lowest first."""

_MOST_SPELLINGS = 64
"""Tokens that may begin one certain string; of more no other is looked for."""


class Following(NamedTuple):
    """What may follow at a place: bits of tokens, and the only one of them, if it is alone.

    `end` is why the text would end there, if it would: nothing but its end may come, or nothing.
    """

    words: Words
    only: int | None
    end: FinishReason | None


class Matcher:
    """Moves along with one text, whose first `num_prompt` tokens are no part of it.

    Of special tokens, which are no text, only those that are `named` come. Of the text's `stop_ids`
    those that are no text end it, where the grammar may end; others are text like any other.
    """

    def __init__(
        self,
        compiled: "xgrammar.CompiledGrammar",
        vocabulary: Vocabulary,
        stop_ids: frozenset[int] = frozenset(),
        num_prompt: int = 0,
        named: frozenset[int] = frozenset(),
    ) -> None:
        import xgrammar

        texts = vocabulary.texts
        ends = {token for token in stop_ids if not texts[token]}
        self._texts = texts
        self._inner = xgrammar.GrammarMatcher(
            compiled, override_stop_tokens=sorted(ends or vocabulary.ends) or None
        )
        self._num_words = -(-len(texts) // 32)
        self._ends = self._bits(ends or vocabulary.ends)
        usable = (token for token, text in enumerate(texts) if text or token in named)
        self._all = self._bits(usable) | self._ends
        self._may_end = bool(ends)
        self._dead = Following(np.zeros(self._num_words, np.int32), None, "length")
        self._num_read = num_prompt
        self._known: dict[tuple[int, ...], Following] = {}

    def following(self, tokens: Sequence[int], paths: Sequence[Sequence[int]]) -> list[Following]:
        """What may follow a text, which only ever grows, and each of some paths behind it."""
        self._go_on(tokens)
        asked = [tuple(path) for path in paths]
        if new := sorted({path for path in asked if path not in self._known}):
            self._walk(new)
        return [self._known[path] for path in asked]

    def allows(self, tokens: Sequence[int], path: Sequence[int], token: int) -> bool:
        """Whether a token may follow there."""
        [there] = self.following(tokens, [path])
        return bool(there.words[token >> 5] >> (token & 31) & 1)

    def _go_on(self, tokens: Sequence[int]) -> None:
        """Read what the text has got; what is known behind it stays known."""
        if not (new := tuple(tokens[self._num_read :])):
            return
        for token in new:
            if not self._accept(token):
                raise EngineError(f"the grammar of a text does not allow its token {token}.")
        count = len(new)
        known = self._known.items()
        self._known = {path[count:]: each for path, each in known if path[:count] == new}
        self._num_read += count

    def _walk(self, paths: Sequence[tuple[int, ...]]) -> None:
        """Note what follows each of these paths, which are in order."""
        taken: tuple[int, ...] = ()
        for path in paths:
            count = num_common(taken, path)
            if count < len(taken):
                self._inner.rollback(len(taken) - count)
            while count < len(path) and self._accept(path[count]):
                count += 1
            taken = path[:count]
            self._known[path] = self._here() if count == len(path) else self._dead
        if taken:
            self._inner.rollback(len(taken))

    def _accept(self, token: int) -> bool:
        # Behind its end it would complain on the standard error.
        return not self._inner.is_terminated() and bool(self._inner.accept_token(token))

    def _here(self) -> Following:
        """What may follow where the grammar stands now."""
        if self._inner.is_terminated():
            return self._dead._replace(end="stop")
        row = torch.zeros(1, self._num_words, dtype=torch.int32)
        is_told = self._inner.fill_next_token_bitmask(row)
        words = row[0].numpy() & self._all if is_told else self._all
        others = words & ~self._ends
        if not others.any():
            is_whole = bool((words & self._ends).any())
            return Following(words, None, "stop" if is_whole else "length")
        if not self._may_end:
            words = others
        only = self._only(words)
        return Following(words if only is None else self._bits({only}), only, None)

    def _only(self, words: Words) -> int | None:
        """The token that must come: the only one, or the longest that spells what is certain."""
        count = int(np.bitwise_count(words).sum())
        if count > _MOST_SPELLINGS:
            return None
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        tokens: list[int] = np.flatnonzero(bits).tolist()
        if count == 1:
            return tokens[0]
        # Of equal ones the later: the others are bytes, for what has no token.
        longest = max(tokens, key=lambda token: (len(self._texts[token]), token))
        text = self._texts[longest]
        if not all(self._texts[token] and text.startswith(self._texts[token]) for token in tokens):
            return None
        try:
            certain = self._inner.find_jump_forward_string().encode()
        except UnicodeDecodeError as error:  # what is certain ends inside a character
            certain = error.object
        return longest if certain.startswith(text) else None

    def _bits(self, tokens: Iterable[int]) -> Words:
        bits = np.zeros(32 * self._num_words, np.uint8)
        bits[list(tokens)] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


def forbid(logits: Tensor, following: Sequence[tuple[int, Following]]) -> None:
    """Make minus infinity of what may not follow, in place, in the rows of these numbers.

    A row where nothing may is left alone: no text gets there.
    """
    living = [(row, each.words) for row, each in following if each.words.any()]
    if not living:
        return
    import xgrammar

    words = np.zeros((len(logits), len(living[0][1])), np.int32)
    for row, own in living:
        words[row] = own
    xgrammar.apply_token_bitmask_inplace(
        logits,
        torch.from_numpy(words).to(logits.device),
        vocab_size=logits.shape[-1],
        indices=[row for row, _ in living],
    )
