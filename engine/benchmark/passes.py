"""What a pass takes by its number of rows, timed as the engine runs it."""

import time
from collections.abc import Mapping, Sequence

from engine.rows import Tokens
from engine.scorer import TreeScorer
from engine.tree import TokenTree, bushy_tree

_REPEATS = 3


def pass_times(
    scorers: Mapping[str, TreeScorer], text: Sequence[int], widths: Sequence[int]
) -> dict[tuple[str, int], float]:
    """Milliseconds by network and rows, the least of three passes behind the text in the cache.

    A pass is timed from lists of tokens to its logits; a GPU is waited for. A head reads features
    of its target, which must hold the rows of the text (`TreeScorer.commit`).
    """
    tree, alone = bushy_tree(text[-1], max(widths)), Tokens([*text])
    times: dict[tuple[str, int], float] = {}
    for name, scorer in scorers.items():
        scorer.score([alone], TokenTree(text[-1]))
        for width in widths:
            passes = [_pass(scorer, alone, tree, width) for _ in range(_REPEATS)]
            times[name, width] = min(passes)
        scorer.strips.rollback()
    return times


def _pass(scorer: TreeScorer, text: Tokens, tree: TokenTree, width: int) -> float:
    scorer.strips.rollback()
    scorer.wait()
    started = time.perf_counter()
    scorer.score([text], tree, range(width))
    scorer.wait()
    return (time.perf_counter() - started) * 1e3
