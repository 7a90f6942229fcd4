"""Whether a draft fits a target, by what their files say, and what one must accept to pay.

Weights are not looked at: what they hide is told when they are loaded.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from engine.checkpoint import PADDING, compare_tokens
from engine.drafting.head_checkpoint import read_config
from engine.drafting.head_network import HeadShape, is_head
from engine.errors import EngineError, first_line, in_one_line
from engine.loading import Checkpoint, num_parameters
from engine.names import resolve

_LONGEST_CHAIN = 8


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found of a draft: it fits where there is no reason why it would not.

    `share` are its weights in those of the target, 0 where they cannot be told. What could not be
    looked up, `was_read` False, is no answer.
    """

    draft: str
    kind: Literal["head", "model"]
    reasons: tuple[str, ...] = ()
    share: float = 0.0
    was_read: bool = True

    @property
    def fits(self) -> bool:
        """Whether it may be named as `--draft`."""
        return not self.reasons


def fit_of(draft: str, target: str) -> Fit:
    """Compare the files of a draft and of its target. Raises ModelLoadError for a target only."""
    checkpoint = Checkpoint.read(target)
    try:
        if resolve(draft) == resolve(target):
            return Fit(draft, "model", ("it is the target itself: a draft must be cheaper",), 1.0)
        config = read_config(draft)
    except Exception as error:  # whatever a hub that cannot be reached may cause
        return Fit(draft, "model", (first_line(error),), was_read=False)
    if is_head(config):
        return Fit(draft, "head", tuple(_head_reasons(draft, config, checkpoint)))
    try:
        drafts = Checkpoint.read(draft)
    except EngineError as error:
        return Fit(draft, "model", (in_one_line(error),))
    share = num_parameters(drafts.config) / max(1, num_parameters(checkpoint.config))
    return Fit(draft, "model", tuple(_model_reasons(drafts, checkpoint, share)), share)


def _model_reasons(draft: Checkpoint, target: Checkpoint, share: float) -> Iterator[str]:
    ours, theirs = target.limits.vocab_size, draft.limits.vocab_size
    if abs(theirs - ours) > PADDING * ours:
        yield f"it has {theirs} tokens and the target {ours}"
    yield from _token_reasons(draft.name, target.name)
    if share >= 1:
        yield f"it has {share:.1f} times the weights of the target: a draft must be cheaper"


def _head_reasons(draft: str, config: Mapping[str, Any], target: Checkpoint) -> Iterator[str]:
    text = target.config.get_text_config()
    num_layers, width = text.num_hidden_layers, text.hidden_size
    try:
        shape = HeadShape.read(config, num_layers, width)
    except Exception as error:  # whatever a foreign configuration may cause
        yield f"its config.json is not that of an EAGLE-3 head: {first_line(error)}"
        return
    read = config.get("target_hidden_size") or shape.layer.hidden_size
    if read != width:
        yield f"it reads hidden states of {read} units, and the target's have {width}"
    if not set(shape.layers) <= {*range(num_layers + 1)}:
        yield f"it reads the layers {shape.layers} of a target that has {num_layers}"
    if target.limits.vocab_size > (1 + PADDING) * shape.layer.vocab_size:
        yield f"it knows {shape.layer.vocab_size} tokens and the target {target.limits.vocab_size}"
    yield from _token_reasons(draft, target.name)


def _token_reasons(draft: str, target: str) -> Iterator[str]:
    """Raises ModelLoadError for a tokenizer.json that is none."""
    tokens = compare_tokens(draft, target)
    if tokens is not None and not tokens.is_same:
        token_id, ours, theirs = tokens.first
        yield (
            f"its tokenizer is another: of {tokens.num_shared} token ids {tokens.num_different} "
            f"mean something else, the first of them {token_id}, {theirs!r} for {ours!r}"
        )


class Gain(NamedTuple):
    """The chain that pays best at some acceptance: its speed in plain decoding, and its length."""

    ratio: float
    length: int


def gain_of(pass_ms: Callable[[int], float], share: float, acceptance: float) -> Gain:
    """What chains of a draft would bring whose tokens are each accepted with this probability.

    `pass_ms` is the time of the target's pass by its rows, and a pass of the draft takes `share` of
    one over one row. A chain of k is worth 1 + a + ... + a^k tokens (Leviathan et al., 2211.17192).
    """
    plain = Gain(1.0, 0)
    chains = (
        Gain(
            sum(acceptance**i for i in range(length + 1))
            / (length * share + pass_ms(1 + length) / pass_ms(1)),
            length,
        )
        for length in range(1, _LONGEST_CHAIN + 1)
    )
    return max(plain, *chains)


def break_even(pass_ms: Callable[[int], float], share: float) -> float | None:
    """The least acceptance, in hundredths, at which a chain pays; None if none does."""
    levels = (percent / 100 for percent in range(1, 101))
    return next((level for level in levels if gain_of(pass_ms, share, level).ratio > 1), None)
