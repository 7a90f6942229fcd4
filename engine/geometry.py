"""How many rows there are of everything: what caches, masks and passes are cut to.

a strip of a cache    the longest text | a tree, or a draft's candidates, and its root
behind all strips     SPARE_ROWS that no text and no tree ever uses
a mask                NUM_BYTES of bits for each row of a pass, of what lies behind the text
"""

MAX_TREE_ROWS = 1024
"""The most nodes that any model may have to hold for one step."""

MOST_FORCED = 16
"""The most nodes that the bottom of a list of stages guesses: those that a grammar leaves alone."""

MAX_WIDTH = 64
"""Of a compiled or captured pass; wider ones, of prompts, are bound by arithmetic and run eagerly.

Also the most rows of padding, and of a pass that is only tried or timed.
"""

NUM_BYTES = (MAX_TREE_ROWS + MAX_WIDTH) // 8
"""Of bits for the rows behind the text, in every pass that may be compiled or captured."""

SPARE_ROWS = MAX_WIDTH
"""Behind all texts, for rows that nobody reads: padding, and passes that mean nothing."""

MAX_STATE_ROWS = 256
"""Rows of a text behind its committed ones, where some layers have a state: a tree's, or those of
a prompt that are read at once."""


def strip_rows(max_model_len: int) -> int:
    """The rows of a cache that one text needs, with a tree behind it."""
    return max_model_len + MAX_TREE_ROWS + 1
