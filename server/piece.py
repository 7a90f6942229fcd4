"""A piece of a reply, in no API's words: text, and the tokens that it came from."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from engine import EmittedToken, StepStats

TextEnd = Literal["stop", "length"]
"""How a text that nobody broke off has ended."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How tokens become pieces of text.

    `stops` are strings that end a text; what ended it is told with `includes_stop`, and special
    tokens are without `skips_specials`, or those whose names are `shown`. `tells_tokens` is whether
    tokens that leave no text are worth a piece.
    """

    stops: tuple[str, ...] = ()
    includes_stop: bool = False
    skips_specials: bool = True
    tells_tokens: bool = False
    shown: frozenset[str] = frozenset()


PLAIN = Manner()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one choice, or all of it.

    `offsets` are where the text of each token begins, in characters from the choice's beginning.
    The last piece has a `finish_reason`, and in `stop_reason` the string or the token id that ended
    the text, if one did. The tokens of the `prompt` are those of which log-probabilities were asked
    for.

    `texts` are what each token has added to the choice, though a stop string may take some of it
    away again. `steps` are those that the tokens came from, where a trace of them was asked for.
    """

    index: int
    text: str
    tokens: tuple[EmittedToken, ...] = ()
    offsets: tuple[int, ...] = ()
    finish_reason: TextEnd | None = None
    stop_reason: str | int | None = None
    prompt: tuple[EmittedToken, ...] = ()
    texts: tuple[str, ...] = ()
    steps: tuple[StepStats, ...] = ()


async def fold(pieces: AsyncIterator[Piece]) -> list[Piece]:
    """The choices that the pieces of a reply add up to, by index."""
    parts: defaultdict[int, list[Piece]] = defaultdict(list)
    async for piece in pieces:
        parts[piece.index].append(piece)
    return [_joined(parts[index]) for index in sorted(parts)]


def _joined(parts: Sequence[Piece]) -> Piece:
    """All of one choice; how it ended is told by the last."""
    return replace(
        parts[-1],
        text="".join(part.text for part in parts),
        tokens=tuple(chain.from_iterable(part.tokens for part in parts)),
        offsets=tuple(chain.from_iterable(part.offsets for part in parts)),
        prompt=tuple(chain.from_iterable(part.prompt for part in parts)),
        texts=tuple(chain.from_iterable(part.texts for part in parts)),
        steps=tuple(chain.from_iterable(part.steps for part in parts)),
    )
