"""A step of a text that no decoder writes, for tests of what is asked within one."""

from collections.abc import Collection, Sequence

from engine.economy import Economy, Step
from engine.request import GenerateRequest, SamplingParams, Speculation
from engine.text import Text
from tests.checkpoints import VOCAB_SIZE


def text_of(
    tokens: Sequence[int],
    sampling: SamplingParams | None = None,
    stop_ids: Collection[int] = (),
    num_written: int = 0,
    max_tokens: int = 100,
    speculation: Speculation = "always",
) -> Text:
    """A text of these tokens, the last `num_written` of them written."""
    prompt = tuple(tokens[: len(tokens) - num_written])
    request = GenerateRequest(
        "r",
        prompt,
        max_tokens + num_written,
        sampling or SamplingParams(0.0),
        tuple(stop_ids),
        speculation=speculation,
    )
    text = Text.of(request, (), VOCAB_SIZE, "cpu")
    text.tokens[:] = tokens
    return text


def step_of(text: Text, max_depth: int = 1000, economy: Economy | None = None) -> Step:
    """A step of the text, by an economy that knows nothing if none is given."""
    return (economy or Economy()).step([text], [max_depth])
