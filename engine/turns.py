"""Which rows go with which pass: those of a prompt, those of a tree that is too wide for one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine.parts import Part
from engine.rows import Rows
from engine.tree import TokenTree
from engine.weights import Precision


class Share(NamedTuple):
    """Nodes of a tree that are below the root of one text, or are it: its tokens, its rows."""

    rows: Rows
    tokens: Sequence[int]
    nodes: Sequence[int]


def room_for(rows: Rows, widest: int | None) -> int | None:
    """How many rows of a text a pass has room for, of at most so many; None: any number.

    One less for a long text, whose passes may need a row of padding behind its boundary.
    """
    rooms = [room for room in (widest, rows.state.most_rows) if room is not None]
    return min(rooms) - rows.is_long if rooms else None


def prompt_parts(
    rows: Rows,
    pending: Sequence[int],
    precision: Precision,
    widest: int | None,
    num_left: int = 0,
) -> Iterator[Part]:
    """Committed tokens but for the last `num_left`: in one pass if no rounding forbids it.

    Where products round their inputs, prompts are read by the passes that score trees, so many
    rows at once as these have; in float32 a wide pass of its own is faster. Each is fed before the
    next.
    """
    room = room_for(rows, widest if precision.rounds_inputs else None)
    step = room or len(pending)
    while len(pending) > num_left:
        yield Part.of_text(rows, pending[:step], TokenTree(0), [])
        pending = pending[step:]


def tree_parts(
    shares: Sequence[Share], tree: TokenTree, widest: int | None
) -> Iterator[list[Part]]:
    """The nodes of texts by the passes in which they are scored: one, unless it is too wide.

    Nor have long texts one with others: rotary factors are those of a whole pass. Each is fed
    before the next.
    """
    turns: list[list[Share]] = []
    num_nodes, room = sum([len(share.nodes) for share in shares]), 0
    was_long: bool | None = None
    for rows, tokens, nodes in shares:
        while nodes:
            if room == 0 or rows.is_long != was_long:
                turns.append([])
                room, was_long = room_for(rows, widest) or num_nodes, rows.is_long
            turns[-1].append(Share(rows, tokens, nodes[:room]))
            nodes, room = nodes[room:], max(0, room - len(nodes))
    for turn in turns:
        yield [
            Part.of_text(rows, rows.missing(tokens), tree, nodes) for rows, tokens, nodes in turn
        ]
