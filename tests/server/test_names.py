"""Names that clients send: ours, other people's, harmless ones, and the rest, which is refused."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from engine import Constraint
from server.protocol.foreign import ALIASES, HARMLESS, NEUTRAL
from tests.server.conftest import LiveServer, StartServer
from tests.server.fakes import EOS, WINDOW, Behaviour, blocks

TEXT = "hello world, hello world, hello world"
ZED = ["<|endoftext|>", "<|file_separator|>", "<|fim_pad|>", "<|fim_prefix|>", "<|fim_middle|>"]
ZED += ["<|fim_suffix|>", "<|cursor|>", "<|marker_1|>", "<|marker_2|>", "<fim_prefix>"]
ZED += ["<fim_suffix>", "<fim_middle>", "```", "\n\n\n"]


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(client: openai.OpenAI, live: LiveServer, **extra: Any) -> Any:
    """What reaches the engine of a body with these fields."""
    client.completions.create(model="fake", prompt="a", extra_body=extra)
    return live.behaviour.requests[-1]


@pytest.mark.parametrize(
    "name", ["max_completion_tokens", "max_new_tokens", "max_output_tokens", "n_predict"]
)
def test_other_names_of_a_length_mean_it(
    client: openai.OpenAI, live: LiveServer, name: str
) -> None:
    """Red when a client's name of a length is swallowed, and its text 16 tokens long."""
    assert asked(client, live, **{name: 5}).max_tokens == 5
    assert asked(client, live, **{name: 5, "max_tokens": 5}).max_tokens == 5
    assert asked(client, live, **{name: None, "max_tokens": 5}).max_tokens == 5
    with pytest.raises(openai.BadRequestError, match=f"max_tokens: is said otherwise by {name}"):
        asked(client, live, **{name: 5, "max_tokens": 6})


def test_other_names_of_ours_mean_ours(client: openai.OpenAI, live: LiveServer) -> None:
    """Red when an alias is lost, or names a field that is not there."""
    assert asked(client, live, repeat_penalty=1.5).sampling.repetition_penalty == 1.5
    reply = client.completions.create(
        model="fake", prompt="a", max_tokens=99, extra_body={"stop_sequences": ["o"], "n_cmpl": 2}
    )
    assert [choice.text for choice in reply.choices] == ["hell", "hell"]
    assert asked(client, live, regex="a").constraint == Constraint("regex", "a")
    assert asked(client, live, ebnf='root ::= "a"').constraint.kind == "grammar"
    assert len(ALIASES) == 9


def test_minus_one_writes_to_the_end_of_the_window(client: openai.OpenAI, live: LiveServer) -> None:
    assert asked(client, live, max_tokens=-1).max_tokens == WINDOW - 1
    assert asked(client, live, n_predict=-1).max_tokens == WINDOW - 1


def test_numbers_as_javascript_and_vllm_have_them(client: openai.OpenAI, live: LiveServer) -> None:
    """Red when 16.0 is no number of tokens, or an unsigned seed none."""
    found = asked(client, live, max_tokens=7.0, seed=2**64 - 1, temperature=5, top_p=0, top_k=3.0)
    assert (found.max_tokens, found.sampling.seed) == (7, 2**64 - 1)
    assert (found.sampling.temperature, found.sampling.top_p, found.sampling.top_k) == (5, 0, 3)


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_changes_nothing_is_accepted(
    client: openai.OpenAI, live: LiveServer, name: str
) -> None:
    """Red when a client is refused for a name that nobody's text depends on."""
    plain = asked(client, live, seed=1)
    found = asked(client, live, seed=1, **{name: {"any": 5}})
    assert (found.sampling, found.max_tokens) == (plain.sampling, plain.max_tokens)


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_what_would_change_a_text_is_accepted_only_where_it_asks_for_nothing(
    client: openai.OpenAI, live: LiveServer, name: str
) -> None:
    """Red when a parameter that is not there is swallowed, or its neutral value refused."""
    for value in NEUTRAL[name]:
        asked(client, live, **{name: value})
    with pytest.raises(openai.BadRequestError, match=f"{name}: is not supported") as refused:
        asked(client, live, **{name: "something"})
    assert refused.value.param == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_token", "max_tokens"),
        ("temprature", "temperature"),
        ("repeat_penaltys", "repeat_penalty"),
        ("zzzz", None),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    client: openai.OpenAI, live: LiveServer, name: str, hint: str | None
) -> None:
    """Red when a misspelling is ignored, or an error does not say what was meant."""
    meant = rf"did you mean {hint}\?" if hint else "leave it out"
    with pytest.raises(openai.BadRequestError, match=rf"{name}: is no parameter .* {meant}"):
        asked(client, live, **{name: 5})


def test_a_long_name_is_cut_in_what_is_told_of_it(live: LiveServer) -> None:
    assert len(live.complete(**{"x" * 10**6: 5}).body) < 500
    assert len(live.complete(model="x" * 10**6).body) < 500


def test_a_chat_is_told_where_chats_go(client: openai.OpenAI, live: LiveServer) -> None:
    """Red when the text of a null prompt answers a chat."""
    with pytest.raises(openai.BadRequestError, match="/v1/chat/completions") as refused:
        asked(client, live, prompt=None, messages=[{"role": "user", "content": "hello"}])
    assert refused.value.param == "messages"


@pytest.mark.parametrize("width", [1, 3, 50])
def test_of_many_stop_strings_none_shows_even_inside_a_block(
    start_server: StartServer, width: int
) -> None:
    """Red when more than four are refused, or what an accepted block says after one is told."""
    script = blocks("def f():\n    return 1\n\n\nx = 2", width)
    server = start_server(Behaviour(lambda request: script)).wait_ready()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        body: dict[str, Any] = {"model": "fake", "prompt": "a", "max_tokens": 99, "stop": ZED}
        [choice] = client.completions.create(**body).choices
        assert choice.text == "def f():\n    return 1"
        shown = client.completions.create(**body, extra_body={"include_stop_str_in_output": True})
        assert shown.choices[0].text == "def f():\n    return 1\n\n\n"
        chunks = client.completions.create(**body, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text


def test_what_ends_a_text_and_special_tokens_are_told_if_asked_for(
    start_server: StartServer,
) -> None:
    """Red when a special token shows unasked, or is hidden where it is wanted."""
    script = [*blocks("ab"), [EOS], *blocks("cd"), [EOS]]
    server = start_server(Behaviour(lambda request: script)).wait_ready()

    def text(**body: Any) -> str:
        told = server.complete(max_tokens=99, **body).json()["choices"][0]["text"]
        assert isinstance(told, str)
        return told

    end = "<|endoftext|>"
    assert text(ignore_eos=True) == "abcd"
    assert text(ignore_eos=True, skip_special_tokens=False) == f"ab{end}cd{end}"
    assert text(skip_special_tokens=False) == "ab"
    assert text(skip_special_tokens=False, include_stop_str_in_output=True) == f"ab{end}"
    assert text(include_stop_str_in_output=True) == "ab"
    named = {"ignore_eos": True, "stop": [f"b{end}"]}
    assert text(**named) == text(**named, skip_special_tokens=False) == "a"
    assert text(**named, include_stop_str_in_output=True) == f"ab{end}"


def test_usage_is_null_until_the_last_chunk_where_it_is_asked_for(client: openai.OpenAI) -> None:
    """Red when chunks lack it, or have it where only the last was to."""
    options = {"include_usage": True}
    body: dict[str, Any] = {"model": "fake", "prompt": "a", "stream": True}
    raw = client.completions.with_raw_response.create(**body, stream_options=options)
    lines = [line for line in raw.http_response.iter_lines() if line.startswith("data: {")]
    assert all('"usage":null' in line for line in lines[:-1])
    assert '"usage":{' in lines[-1] and '"choices":[]' in lines[-1]
    only_running = {"include_usage": False, "continuous_usage_stats": True}
    raw = client.completions.with_raw_response.create(**body, stream_options=only_running)
    assert not any("usage" in line for line in raw.http_response.iter_lines())


def test_a_fingerprint_is_the_same_until_something_changes(client: openai.OpenAI) -> None:
    """Red when a reply does not say what made its text."""
    prints = {
        client.completions.create(model="fake", prompt=prompt).system_fingerprint
        for prompt in ("a", "b")
    }
    [only] = prints
    assert only is not None and only.startswith("fp_") and len(only) == 15
