"""Timing the passes of a target and its stages, before there is a text to time them with."""

import time

from engine.drafting.stage import Drafter
from engine.economy import TARGET_PASS, Economy, time_passes
from engine.model import Model
from engine.request import GenerateRequest, SamplingParams
from engine.rows import Tokens
from engine.text import Text
from engine.tree import TokenTree, bushy_tree

_NUM_TOKENS = 80
"""More than a captured pass has rows: on a GPU the first prompt need not wait for its kernels."""
_DEEPEST = 8
"""A tree of 64 rows is 6 levels deep, and needs as many positions."""
_CHUNKS = (64, 128, 256, 512, 1024, 2048)
_SAMPLED, _GREEDY = SamplingParams(1.0, top_k=50), SamplingParams(0.0)


def rehearse(target: Model, drafter: Drafter, economy: Economy, seconds: float) -> None:
    """Time the passes of the target and of every network, for greedy and sampled texts.

    What the economy knew of costs is replaced. It takes about `seconds`, or as long as a few passes
    of each network, and leaves no text in the target.
    """
    for sampling in (_SAMPLED, _GREEDY):
        text = _text(target, sampling)
        runs = {TARGET_PASS: _Rehearsal(target, text).run, **drafter.rehearsals(text)}
        share = seconds / 2 / len(runs)
        measured = {name: time_passes(run, share) for name, run in runs.items()}
        economy.time(sampling.is_greedy, measured)
    target.strips.forget()


def fit_chunk(target: Model, milliseconds: float) -> int:
    """The most tokens of a prompt, of a few sizes, that the target reads in so many milliseconds.

    Never more than its chunk is now, nor fewer than the smallest size, which takes what it takes.
    """
    most, room = target.chunk, target.max_model_len
    sizes = [size for size in _CHUNKS if size < min(most, room)] + [most]
    fitting = sizes[0]
    for size in sizes:
        if size + 2 > room:
            break
        target.chunk = size
        # The first of a size may wait for a kernel, and any for another process.
        if min([_read_milliseconds(target, size) for _ in range(3)]) > milliseconds:
            break
        fitting = size
    target.chunk = most
    target.strips.forget()
    return fitting


def _read_milliseconds(target: Model, size: int) -> float:
    target.strips.forget()
    started = time.perf_counter()
    target.read(Tokens([0] * (size + 2)))
    target.wait()
    return (time.perf_counter() - started) * 1e3


class _Rehearsal:
    """A target that has read a text, and scores trees of any size after it."""

    def __init__(self, target: Model, text: Text) -> None:
        self._target, self._text = target, text
        target.score([text], TokenTree(0))
        target.strips.rollback()

    def run(self, num_rows: int) -> None:
        self._target.score([self._text], bushy_tree(0, num_rows))
        self._target.wait()
        self._target.strips.rollback()


def _text(target: Model, sampling: SamplingParams) -> Text:
    num_tokens = max(1, min(_NUM_TOKENS, target.max_model_len - _DEEPEST))
    prompt = (0,) * (num_tokens + 1)
    request = GenerateRequest("rehearsal", prompt, 1, sampling, speculation="always")
    return Text.of(request, (), target.limits.vocab_size, target.device)
