"""The prompts of a text completion: token ids for the engine, and text where it is told again."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from server.errors import BadRequestError
from server.protocol import CompletionRequest
from server.text import Detokenizer, Infill, Tokenizer, encode_inside
from server.translate.requests import Planner


def prompt_ids(body: CompletionRequest, planner: Planner) -> list[tuple[int, ...]]:
    """The prompts as token ids, whichever of the four shapes they came in."""
    if body.suffix:
        infill = infill_of(planner, "suffix")
        return [tuple(_around_gap(each, body, planner, infill)) for each in shaped(body)]
    return [_cut(_token_ids(each, body, planner), body, planner) for each in shaped(body)]


def infill_of(planner: Planner, param: str) -> Infill:
    """How the model fills gaps; raises BadRequestError, about this field, if it does not."""
    if planner.infill is None:
        raise BadRequestError(
            f"{param}: {planner.info.model} has no tokens for fill-in-the-middle. Serve a code "
            "model that has, or say how by the setting fim_template.",
            param=param,
        )
    return planner.infill


def shaped(body: CompletionRequest) -> list[str | list[int]]:
    """The prompts as they were sent."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    whole: list[object] = [body.prompt] if isinstance(body.prompt[0], int) else [*body.prompt]
    return whole  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is told again: its text, and where in it each of its tokens begins."""

    text: str
    places: tuple[int, ...]

    @classmethod
    def of(
        cls, body: CompletionRequest, number: int, ids: Sequence[int], tokenizer: Tokenizer
    ) -> Self:
        """The prompt of this number, as it was sent if it was text and is whole."""
        pieces = spelled(tokenizer, ids, body.skip_special_tokens)
        sent = shaped(body)[number]
        is_whole = body.truncate_prompt_tokens is None
        text = sent if isinstance(sent, str) and is_whole else "".join(pieces)
        places = accumulate(map(len, pieces[:-1]), initial=0)
        return cls(text, tuple(min(place, len(text)) for place in places))


def spelled(tokenizer: Tokenizer, ids: Sequence[int], skips_specials: bool) -> list[str]:
    """What each of these tokens adds to their text; the last has what was left unfinished."""
    detokenizer = Detokenizer(tokenizer, marks={} if skips_specials else tokenizer.specials)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    return [*pieces[:-1], pieces[-1] + detokenizer.flush()]


def _token_ids(prompt: str | list[int], body: CompletionRequest, planner: Planner) -> list[int]:
    if not isinstance(prompt, str):
        return prompt
    if body.truncate_prompt_tokens is not None:
        prompt = prompt[-planner.most_characters :]
    return planner.encode(prompt, body.add_special_tokens) or planner.start()


def _around_gap(
    prompt: str | list[int], body: CompletionRequest, planner: Planner, infill: Infill
) -> list[int]:
    """A prompt and the suffix; of the prompt the last of its tokens, if it is to be cut."""
    tokenizer = planner.tokenizer
    start: list[int] = []
    if isinstance(prompt, str):
        start = tokenizer.encode("", body.add_special_tokens)
        prompt = planner.encode(prompt, add_special_tokens=False)
    planner.check_length(body.suffix, "suffix")
    suffix = encode_inside(body.suffix, tokenizer)
    return [*start, *infill.prompt(_cut(prompt, body, planner, len(suffix) + 8), suffix)]


def _cut(
    ids: Sequence[int], body: CompletionRequest, planner: Planner, num_others: int = 0
) -> tuple[int, ...]:
    """The last of a prompt's tokens; -1 are those that leave room for the reply and for others."""
    most = body.truncate_prompt_tokens
    if most is None:
        return tuple(ids)
    room = planner.room_for_prompt(body.max_tokens) - num_others if most == -1 else most
    return tuple(ids[-max(1, room) :])
