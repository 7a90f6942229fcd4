"""lm-evaluation-harness itself, as `local-completions` and `local-chat-completions`, if there."""

from typing import Any

import pytest

from tests.server.command import PROMPT, Command
from tests.server.fakes import byte_level_tokenizer

pytest.importorskip("lm_eval", reason="lm_eval is not installed")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("default")]

TOKENIZER = byte_level_tokenizer()


def harness(command: Command, **settings: Any) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    url = f"http://127.0.0.1:{command.port}/v1/completions"
    given = {"tokenizer": command.model, "tokenizer_backend": "huggingface", **settings}
    return LocalCompletionsAPI(base_url=url, model="tiny", max_length=512, **given)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def greedy_pair(command: Command) -> tuple[str, str]:
    """A beginning, and the text of the token that follows it, which is read as that token."""
    for end in range(5, len(PROMPT)):
        context = PROMPT[:end]
        body = {"prompt": context, "temperature": 0, "max_tokens": 1, "return_token_ids": True}
        [choice] = command.complete(**body)["choices"]
        ids = [*TOKENIZER.encode(context), *choice["token_ids"]]
        if context == context.rstrip() and TOKENIZER.encode(context + choice["text"]) == ids:
            return context, choice["text"]
    raise AssertionError("no token of this model is read as it was written")


@pytest.mark.parametrize("num_concurrent", [1, 4])
def test_likelihoods_are_those_of_the_engine(command: Command, num_concurrent: int) -> None:
    """Red when a choice is scored at another place, or what is greedy is not seen to be."""
    pairs = [(PROMPT, " world"), greedy_pair(command), ("hello", " there"), (PROMPT, "x + 1")]
    lm = harness(command, batch_size=2, num_concurrent=num_concurrent)
    found = lm.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    assert [is_greedy for _, is_greedy in found] == [False, True, False, False]
    for (context, ending), (total, _) in zip(pairs, found, strict=True):
        ids = TOKENIZER.encode(context + ending)
        start = len(TOKENIZER.encode(context))
        body = {"prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 0}
        told = command.complete(**body)["choices"][0]["logprobs"]["token_logprobs"]
        assert total == pytest.approx(sum(told[start:]), abs=1e-3)


def test_texts_are_written_until_their_stops(command: Command) -> None:
    """Red when a generation of an evaluation is refused, or goes on behind its stop."""
    asked = {"until": ["\n", "w"], "max_gen_toks": 24, "temperature": 0}
    lm = harness(command)
    [text] = lm.generate_until(requests("generate_until", (PROMPT, asked)), disable_tqdm=True)
    own = command.complete(temperature=0, max_tokens=24, stop=["\n", "w"])
    assert text == own["choices"][0]["text"] and "\n" not in text


def test_its_remote_tokenizer_is_ours(command: Command) -> None:
    """Red when an evaluation without the tokenizer's files scores other tokens."""
    pair = requests("loglikelihood", (PROMPT, " world"))
    near, far = (harness(command, tokenizer_backend=each) for each in ("huggingface", "remote"))
    assert far.loglikelihood(pair, disable_tqdm=True) == near.loglikelihood(pair, disable_tqdm=True)


def test_chats_are_asked_until_their_stops(command: Command) -> None:
    """Red when a chat of an evaluation is refused, or its reply is read as another."""
    from lm_eval.models.openai_completions import LocalChatCompletion

    url = f"http://127.0.0.1:{command.port}/v1/chat/completions"
    lm = LocalChatCompletion(base_url=url, model="tiny", num_concurrent=2)
    said = lm.apply_chat_template([{"role": "user", "content": PROMPT}])
    asked = {"until": ["w"], "max_gen_toks": 24, "temperature": 0}
    found = lm.generate_until(requests("generate_until", *[(said, asked)] * 3), disable_tqdm=True)
    reply = command.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=24,
        temperature=0,
        stop=["w"],
    )
    assert found == [reply.choices[0].message.content] * 3
