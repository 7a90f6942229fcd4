"""Whether a request can run at all: asked by the engine, and by a server before a reply begins."""

from collections.abc import Iterator

from engine.errors import ContextLengthError, InvalidRequestError
from engine.request import GenerateRequest
from engine.sampling_checks import sampling_problems


def check(request: GenerateRequest, window: int, vocab_size: int) -> None:
    """Raise InvalidRequestError for a request that cannot run where texts are so long at most."""
    for problem in (*_problems(request, window), *_strange_ids(request, vocab_size)):
        raise problem
    for name, told in sampling_problems(request.sampling, vocab_size, request.max_tokens):
        raise InvalidRequestError(told, name)


def _problems(request: GenerateRequest, window: int) -> Iterator[InvalidRequestError]:
    """What is wrong with the length of the prompt or the reply."""
    num_prompt, num_reply = len(request.prompt), request.max_tokens
    if not request.prompt:
        yield InvalidRequestError("the prompt is empty: give at least one token id.", "prompt")
    if num_reply < 0:
        told = f"max_tokens is {num_reply}: ask for 0 or more."
        yield InvalidRequestError(told, "max_tokens")
    if num_prompt + num_reply > window:
        yield ContextLengthError(
            f"a prompt of {num_prompt} tokens and a reply of {num_reply} exceed the window of "
            f"{window}: shorten either, or raise max_model_len.",
            "prompt",
        )
    if (num_predicted := len(request.prediction)) > window:
        yield InvalidRequestError(
            f"the prediction has {num_predicted} tokens, more than the window of {window}: send "
            "what of it the reply may hold.",
            "prediction",
        )


def _strange_ids(request: GenerateRequest, vocab_size: int) -> Iterator[InvalidRequestError]:
    """What is not in the vocabulary, or is more than there is in it."""
    for field in ("prompt", "stop_token_ids", "prediction"):
        ids = getattr(request, field)
        strange = next((token for token in ids if not 0 <= token < vocab_size), None)
        if strange is not None:
            told = f"{field}: {strange} is no token: ids must be from 0 to {vocab_size - 1}."
            yield InvalidRequestError(told, field)
    for field in ("num_logprobs", "num_prompt_logprobs"):
        count = getattr(request, field)
        if not 0 <= (count or 0) <= vocab_size:
            told = f"{field} is {count}: it must be from 0 to {vocab_size}."
            yield InvalidRequestError(told, field)
