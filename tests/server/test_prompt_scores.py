"""Echo and prompt log-probabilities as evaluations ask for them: a real engine, a real client."""

import math
from typing import Any

import openai
import pytest

from tests.server.command import PROMPT, Command
from tests.server.fakes import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
IDS = TOKENIZER.encode(PROMPT)


def created(command: Command, **body: Any) -> Any:
    """The reply of the official client."""
    extra = body.pop("extra_body", {})
    return command.client.completions.create(
        **{"model": "tiny", "prompt": PROMPT, "temperature": 0, "seed": 1234, **body},
        extra_body=extra,
    )


def test_a_likelihood_is_scored_as_lm_evaluation_harness_asks_and_reads(command: Command) -> None:
    """Red when a list is shifted, the prompt's token is not among the top, or null is elsewhere."""
    asked: dict[str, Any] = {"logprobs": 1, "echo": True, "max_tokens": 1}
    reply = created(command, prompt=[IDS, IDS[:9]], **asked)
    for choice, ids in zip(reply.choices, (IDS, IDS[:9]), strict=True):
        told = choice.logprobs
        scores, top = told.token_logprobs, told.top_logprobs
        assert len(scores) == len(top) == len(ids) + 1
        assert scores[0] is None and top[0] is None
        assert all(score <= 0 for score in scores[1:])
        # What it calls greedy: the token's own score is exactly the best of the top ones.
        for name, score, alternatives in zip(told.tokens[1:], scores[1:], top[1:], strict=True):
            assert alternatives[name] == score and len(alternatives) <= 2
        assert top[-1] == {told.tokens[-1]: scores[-1]}  # written greedily
    context = 4
    total = sum(reply.choices[0].logprobs.token_logprobs[context:-1])
    assert -math.inf < total < 0 and reply.usage.completion_tokens == 2


def test_a_prompt_is_scored_the_same_whatever_is_known_of_it_and_who_writes(
    command: Command,
) -> None:
    """Red when scores come from what an earlier request has left, or depend on company."""
    asked: dict[str, Any] = {"prompt": IDS, "logprobs": 2, "echo": True, "max_tokens": 0}
    first = created(command, **asked)
    created(command, max_tokens=8)
    stream = created(command, max_tokens=200, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    again = created(command, **asked)
    stream.close()
    assert again.choices[0].logprobs == first.choices[0].logprobs
    assert first.usage.completion_tokens == 0 and first.choices[0].finish_reason == "length"
    assert again.usage.prompt_tokens_details.cached_tokens == 0


def test_what_was_written_is_scored_as_it_was_when_it_was_written(command: Command) -> None:
    """Red when a prompt's score is not that of the same token in a reply."""
    wrote = created(command, max_tokens=12, logprobs=0, extra_body={"return_token_ids": True})
    extra = wrote.choices[0].model_extra
    assert extra["prompt_token_ids"] == IDS
    whole = [*IDS, *extra["token_ids"]]
    scored = created(command, prompt=whole, max_tokens=0, logprobs=0, echo=True)
    expected = wrote.choices[0].logprobs.token_logprobs
    found = scored.choices[0].logprobs.token_logprobs[len(IDS) :]
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("prompt", [PROMPT, IDS], ids=["text", "ids"])
def test_an_echo_begins_with_the_prompt_whole_or_streamed(command: Command, prompt: Any) -> None:
    """Red when a stream tells the prompt twice or never, or offsets are the reply's alone."""
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": 6, "echo": True, "n": 2}
    plain = created(command, prompt=prompt, max_tokens=6, n=2)
    whole = created(command, **body, logprobs=0)
    chunks = list(created(command, **body, logprobs=0, stream=True))
    for index in range(2):
        text = whole.choices[index].text
        assert text == PROMPT + plain.choices[index].text
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.text for choice in own) == text
        told = whole.choices[index].logprobs
        offsets = [offset for choice in own for offset in choice.logprobs.text_offset]
        assert offsets == told.text_offset and offsets[: len(IDS)][-1] < len(PROMPT) <= offsets[-1]
        for name, offset in zip(told.tokens[: len(IDS)], told.text_offset, strict=False):
            assert text[offset:].startswith(name)
    assert [choice.text for choice in created(command, **body).choices] == [
        choice.text for choice in whole.choices
    ]


def test_prompt_logprobs_are_told_by_id(command: Command) -> None:
    """Red when vLLM's shape is not what its clients read."""
    reply = created(command, max_tokens=1, extra_body={"prompt_logprobs": 2})
    [choice] = reply.choices
    assert choice.logprobs is None and not choice.text.startswith(PROMPT)
    told = choice.model_extra["prompt_logprobs"]
    assert told[0] is None and len(told) == len(IDS)
    for token, alternatives in zip(IDS[1:], told[1:], strict=True):
        own = alternatives[str(token)]
        assert own["decoded_token"] == TOKENIZER.token_text(token)
        ranks = sorted(each["rank"] for each in alternatives.values() if each["rank"])
        assert ranks == [1, 2] and own["rank"] in (1, 2, None)
    for extra in ({"prompt_logprobs": 1}, {"prompt_logprobs": 21}):
        with pytest.raises(openai.BadRequestError, match="prompt_logprobs"):
            created(command, stream=True, extra_body=extra)


def test_the_best_of_several_is_the_likeliest_by_the_token(command: Command) -> None:
    """Red when another choice is told, or its seed does not write it again."""
    body: dict[str, Any] = {"temperature": 1.2, "max_tokens": 12, "logprobs": 0}

    def mean(choice: Any) -> float:
        scores = choice.logprobs.token_logprobs
        return float(sum(scores)) / len(scores)

    every = created(command, **body, n=6).choices
    reply = created(command, **body, n=2, best_of=6)
    ranked = sorted(every, key=mean, reverse=True)
    assert [choice.text for choice in reply.choices] == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.usage.completion_tokens == sum(len(c.logprobs.tokens) for c in every)
    seed = reply.choices[0].model_extra["seed"]
    assert created(command, **{**body, "seed": seed}).choices[0].text == ranked[0].text
    for wrong in ({"n": 3, "best_of": 2}, {"n": 1, "best_of": 2, "stream": True}):
        with pytest.raises(openai.BadRequestError, match="best_of"):
            created(command, **wrong)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_once_for_all_of_its_choices(command: Command, stream: bool) -> None:
    """Red when each choice reads it anew, or is told without its scores."""
    asked: dict[str, Any] = {"prompt": [IDS, IDS[:9]], "n": 3, "echo": True, "logprobs": 1}
    before = command.figures()["vllm:prefix_cache_hits_total", ""]
    reply = created(command, **asked, max_tokens=2, stream=stream)
    found: dict[int, list[float | None]] = {}
    for each in reply if stream else [reply]:
        for choice in each.choices:
            found.setdefault(choice.index, []).extend(choice.logprobs.token_logprobs)
    alone = [
        created(command, **{**asked, "prompt": ids, "n": 1}, max_tokens=0)
        for ids in asked["prompt"]
    ]
    for index in range(6):
        scores = alone[index // 3].choices[0].logprobs.token_logprobs
        assert found[index][: len(scores)] == scores and len(found[index]) == len(scores) + 2
    # What is scored is read anew, whatever is known of it: of six prompts two.
    assert command.figures()["vllm:prefix_cache_hits_total", ""] > before


def test_a_prompt_is_cut_from_its_beginning(command: Command) -> None:
    """Red when the end of a prompt is lost, or more is refused than must be."""
    extra: dict[str, Any] = {"truncate_prompt_tokens": 5, "return_token_ids": True}
    reply = created(command, max_tokens=2, echo=True, extra_body=extra)
    assert reply.choices[0].model_extra["prompt_token_ids"] == IDS[-5:]
    assert reply.choices[0].text.startswith(TOKENIZER.decode(IDS[-5:]))
    extra["truncate_prompt_tokens"] = -1
    reply = created(command, prompt=IDS * 50, max_tokens=4, extra_body=extra)
    assert reply.usage.prompt_tokens == 512 - 4
    assert reply.choices[0].model_extra["prompt_token_ids"] == (IDS * 50)[-508:]


def test_more_scores_than_a_reply_can_hold_are_refused(command: Command) -> None:
    """Red when one request may ask for gigabytes."""
    with pytest.raises(openai.BadRequestError, match="log-probabilities in a request"):
        created(command, prompt=[[5] * 500] * 110, max_tokens=0, logprobs=20, echo=True)
