"""Chat over a real socket: what is asked of the engine, and replies whole and in chunks."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import processors

from server.text import Tokenizer
from tests.chats import HERMES, PLAIN, REFUSING
from tests.server.conftest import LiveServer, StartServer, serving
from tests.server.fakes import EOS, WINDOW, Behaviour, blocks, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
TEXT = "hello world, hello world, hello world"
PROMPT = "<user>hello<|endoftext|><assistant>"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with serving(Behaviour(chat_templates={"default": PLAIN})) as server:
        yield server


def stream(server: LiveServer, **body: Any) -> list[Any]:
    reply = server.chat(stream=True, **body)
    assert reply.status == 200, reply.body
    *events, done = reply.events()
    assert done == "[DONE]"
    return events


def folded(events: list[Any]) -> dict[int, dict[str, Any]]:
    """The choices that chunks add up to, as a client adds them."""
    choices: dict[int, dict[str, Any]] = {}
    for piece in (piece for event in events for piece in event["choices"]):
        choice = choices.setdefault(piece["index"], {"message": {}, "logprobs": None})
        for name, value in piece["delta"].items():
            if name == "tool_calls":
                _add_calls(choice["message"].setdefault(name, []), value)
            else:
                choice["message"][name] = choice["message"].get(name, "") + value
        if piece["logprobs"]:
            told = choice["logprobs"] or {"content": [], "refusal": None}
            choice["logprobs"] = {**told, "content": told["content"] + piece["logprobs"]["content"]}
        if "token_ids" in piece:
            choice["token_ids"] = choice.get("token_ids", []) + piece["token_ids"]
        rest = ("index", "finish_reason", "stop_reason", "seed")
        choice |= {name: piece[name] for name in rest}
    return choices


def _add_calls(calls: list[Any], pieces: list[Any]) -> None:
    for piece in pieces:
        if piece["index"] == len(calls):
            assert piece["id"] and piece["type"] == "function" and piece["function"]["name"]
            calls.append({name: piece[name] for name in ("id", "type", "function")})
        else:
            assert piece.keys() == {"index", "function"} and piece["function"].keys() == {
                "arguments"
            }
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def whole(reply: Any) -> dict[int, dict[str, Any]]:
    """The choices of a whole reply, as chunks tell them."""
    choices = {choice["index"]: choice for choice in reply["choices"]}
    for choice in choices.values():
        del choice["message"]["refusal"]
        choice["message"]["content"] = choice["message"]["content"] or ""
    return choices


BODIES: list[dict[str, Any]] = [
    {},
    {"max_tokens": 3},
    {"max_completion_tokens": 3},
    {"max_tokens": 0},
    {"stop": ", h"},
    {"stop": ["zzz", "world, hello"], "logprobs": True, "top_logprobs": 2},
    {"max_tokens": 7, "n": 3, "seed": 5},
    {"max_tokens": 5, "logprobs": True, "return_token_ids": True},
    {"stop_token_ids": [TOKENIZER.encode(",")[0]]},
]


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_whole_reply_is_the_fold_of_its_stream(live: LiveServer, body: dict[str, Any]) -> None:
    """Red when stream and whole reply are written by different code, or a piece is lost."""
    body = {"seed": 1, **body}
    reply = live.chat(**body).json()
    *chunks, last = stream(live, stream_options={"include_usage": True}, **body)
    assert last["choices"] == [] and last["usage"] == reply["usage"] and last["metrics"]
    assert folded(chunks) == whole(reply)


def test_the_first_chunk_of_each_choice_has_the_role_and_no_other(live: LiveServer) -> None:
    """Red when a client must guess who speaks, or is told again and again."""
    events = stream(live, n=2)
    for index in range(2):
        deltas = [e["choices"][0]["delta"] for e in events if e["choices"][0]["index"] == index]
        assert deltas[0]["role"] == "assistant"
        assert all("role" not in delta for delta in deltas[1:])


def test_a_reply_says_what_openai_says_and_what_it_learned_about_itself(live: LiveServer) -> None:
    """Red when a field of the reply is missing, renamed or miscounted."""
    reply = live.chat(seed=42)
    body = reply.json()
    assert body["object"] == "chat.completion" and body["model"] == "fake"
    assert body["id"] == f"chatcmpl-{reply.headers['x-request-id']}"
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    assert choice["finish_reason"] == "length" and choice["seed"] == 42
    assert body["usage"]["prompt_tokens"] == len(TOKENIZER.encode(PROMPT))
    assert body["usage"]["completion_tokens"] == len(TOKENIZER.encode(TEXT))
    assert [stage["name"] for stage in body["metrics"]["stages"]] == ["draft", "ngram"]


def test_logprobs_have_the_shape_of_chats(live: LiveServer) -> None:
    """Red when tokens, bytes or alternatives are named as text completions name them."""
    [choice] = live.chat(logprobs=True, top_logprobs=2, max_tokens=2).json()["choices"]
    first = choice["logprobs"]["content"][0]
    assert first["token"] == TOKENIZER.token_text(TOKENIZER.encode(TEXT)[0])
    assert bytes(first["bytes"]).decode() == first["token"] and first["logprob"] == -0.25
    assert len(first["top_logprobs"]) == 2 and first["top_logprobs"][0]["logprob"] == -9999.0


def test_the_template_writes_the_prompt_and_its_special_tokens(start_server: StartServer) -> None:
    """Red when special tokens of the text are read as plain text, or others are added."""
    behaviour = Behaviour(chat_templates={"default": PLAIN})
    server = start_server(behaviour).wait_ready()
    said: list[Any] = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"role": "user", "content": "hello"},
    ]
    assert server.chat(messages=said, max_tokens=1, temperature=0.5).status == 200
    [request] = behaviour.requests
    prompt = TOKENIZER.inner.decode(list(request.prompt), skip_special_tokens=False)
    assert prompt == "<system>a\nb<|endoftext|>" + PROMPT
    assert request.prompt.count(EOS) == 2 and request.sampling.temperature == 0.5
    # The template ends a turn with it, so it ends the reply too.
    assert request.stop_token_ids == (EOS,)


def test_no_special_tokens_are_added_to_what_the_template_writes(
    start_server: StartServer,
) -> None:
    """Red when a text begins twice, as by the template and by the tokenizer."""

    def beginning() -> Tokenizer:
        raw = RawTokenizer.from_str(TOKENIZER.inner.to_str())
        start = [("<|endoftext|>", EOS)]
        raw.post_processor = processors.TemplateProcessing("<|endoftext|> $A", None, start)
        return Tokenizer(raw)

    behaviour = Behaviour(chat_templates={"default": PLAIN}, tokenizer=beginning)
    server = start_server(behaviour).wait_ready()
    assert server.chat().status == 200 and server.complete().status == 200
    chatted, completed = behaviour.requests
    assert chatted.prompt == tuple(TOKENIZER.encode(PROMPT))
    assert completed.prompt == (EOS, *TOKENIZER.encode("hello"))


def test_a_reply_may_be_as_long_as_the_window_leaves(start_server: StartServer) -> None:
    """Red when the 16 tokens of text completions are the default, or 400 is the answer to more."""
    behaviour = Behaviour(chat_templates={"default": PLAIN})
    server = start_server(behaviour).wait_ready()
    room = WINDOW - len(TOKENIZER.encode(PROMPT))
    for more in ({}, {"max_tokens": 10**6}, {"max_completion_tokens": 10**6}):
        assert server.chat(**more).status == 200
    assert [request.max_tokens for request in behaviour.requests] == [room] * 3
    for length in (300, 10**6):
        refused = server.chat(messages=[{"role": "user", "content": "a" * length}])
        assert refused.status == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_a_message_of_the_assistant_is_continued(start_server: StartServer) -> None:
    """Red when the template's end of turn stands before the reply."""
    behaviour = Behaviour(chat_templates={"default": PLAIN})
    server = start_server(behaviour).wait_ready()
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Well, "}]
    assert server.chat(messages=said, continue_final_message=True).status == 200
    told = TOKENIZER.inner.decode(list(behaviour.requests[0].prompt), skip_special_tokens=False)
    assert told == PROMPT + "Well, "


def test_a_model_without_a_template_says_where_to_send_text(start_server: StartServer) -> None:
    server = start_server().wait_ready()
    reply = server.chat()
    assert reply.status == 400 and "/v1/completions" in reply.json()["error"]["message"]


def test_the_servers_own_template_goes_first(start_server: StartServer, tmp_path: Any) -> None:
    """Red when --chat-template is only for models that have none."""
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}!")
    behaviour = Behaviour(chat_templates={"default": PLAIN})
    server = start_server(behaviour, chat_template=str(tmp_path / "own.jinja")).wait_ready()
    assert server.chat().status == 200
    assert list(behaviour.requests[0].prompt) == TOKENIZER.encode("hello!")


def test_a_template_can_be_applied_without_a_reply(live: LiveServer) -> None:
    """Red when what is told is not what a chat of the same body feeds."""
    sent = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    reply = live.request("POST", "/apply-template", sent, content_type="application/json")
    assert reply.json() == {"prompt": PROMPT}


def test_what_a_template_refuses_is_a_bad_request(start_server: StartServer) -> None:
    server = start_server(Behaviour(chat_templates={"default": REFUSING})).wait_ready()
    reply = server.chat(messages=[{"role": "system", "content": "x"}])
    assert reply.status == 400 and "no system here" in reply.json()["error"]["message"]


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}
TOOL = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "must have a content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "'system', 'developer'"),
        ({"messages": [IMAGE]}, "'image_url' cannot be read"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a surrogate"),
        ({"top_logprobs": 2}, "logprobs is true"),
        ({"logprobs": True, "top_logprobs": 21}, "at most 20"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "'required' or"),
        ({"tools": [TOOL], "tool_choice": NAMED}, "none of the tools"),
        (
            {
                "tools": [TOOL],
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
            },
            "forces a call",
        ),
        ({"tools": [TOOL]}, "no place for them"),
        ({"tools": [{"type": "web_search"}]}, "function"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"continue_final_message": True}, "must be the assistant's"),
        ({"chat_template_kwargs": {"messages": []}}, "a field of the body"),
        ({"chat_template": "x"}, "chat_template"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"prompt": "x"}, "prompt"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(
    live: LiveServer, body: dict[str, Any], words: str
) -> None:
    """Red when it is ignored, or fails inside the server."""
    reply = live.chat(**body)
    assert reply.status == 400, reply.body
    assert words in reply.json()["error"]["message"]


HALF = "\ud800"
CALLED = {"name": "f", "arguments": r'{"a": "\ud800"}'}
WITH_HALF: list[dict[str, Any]] = [
    {HALF: 1},
    {"messages": [{"role": "user", "content": "x", "name": HALF}]},
    {"messages": [{"role": "user", "content": "x", HALF: "x"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": CALLED}]}]},
    {"tools": [{"type": "function", "function": {"name": "f", "description": HALF}}]},
    {"chat_template_kwargs": {"x": HALF}},
    {"chat_template_kwargs": {"refuse": HALF}},
    {"reasoning_effort": HALF},
]


def test_half_a_surrogate_pair_is_nobodys_failure(start_server: StartServer) -> None:
    """Red when it reaches the tokenizer, or an answer, and is a 500."""
    told = "{{ messages | tojson }}{{ tools | tojson }}{{ x }}{{ reasoning_effort }}"
    told += "{% if refuse %}{{ raise_exception(refuse) }}{% endif %}"
    server = start_server(Behaviour(chat_templates={"default": HERMES + told})).wait_ready()
    for body in WITH_HALF:
        sent = json.dumps({"messages": [{"role": "user", "content": "x"}], **body}).encode()
        for path in ("/v1/chat/completions", "/apply-template"):
            reply = server.request("POST", path, sent, content_type="application/json")
            assert reply.status == 400 and reply.json()["error"]["message"], (path, sent)


CALL = {"function": {"name": "f"}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [1] * 10**6},
        {"messages": [{"role": "user", "content": "x"}] * 5000},
        {"messages": [{"role": "assistant", "tool_calls": [CALL] * 5000}]},
        {"tools": [TOOL] * 5000},
        {"chat_template_kwargs": {str(number): 1 for number in range(1000)}},
        {"messages": [{"role": "user", "content": [{"type": "x" * 10**6}]}]},
        {"messages": [{"role": "x" * 10**6, "content": ""}]},
    ],
    ids=["numbers", "messages", "calls", "tools", "names", "kind", "role"],
)
def test_what_is_too_much_is_refused_in_a_few_words(live: LiveServer, body: dict[str, Any]) -> None:
    """Red when a body is looked at piece by piece before its size is, or told back whole."""
    reply = live.chat(**body)
    assert reply.status in (400, 413) and len(reply.body) < 500


def test_a_reason_is_told_as_long_as_it_is_of_use(start_server: StartServer) -> None:
    """Red when a template's complaint carries a whole message back."""
    complaining = {"default": "{{ raise_exception(messages[0].content) }}"}
    server = start_server(Behaviour(chat_templates=complaining)).wait_ready()
    reply = server.chat(messages=[{"role": "user", "content": "no " * 10**5}])
    assert reply.status == 400 and 500 < len(reply.body) < 1000


def test_tools_that_may_not_be_called_are_left_out_of_the_prompt(start_server: StartServer) -> None:
    behaviour = Behaviour(chat_templates={"default": HERMES})
    server = start_server(behaviour).wait_ready()
    assert server.chat(tools=[TOOL], tool_choice="none").status == 200
    assert list(behaviour.requests[0].prompt) == TOKENIZER.encode(PROMPT)


def test_a_stop_string_frees_the_engine_before_its_script_ends(start_server: StartServer) -> None:
    """Red when a stop string only hides text that is still being decoded."""
    templates = {"default": PLAIN}
    behaviour = Behaviour(lambda request: blocks("ab " * 60), chat_templates=templates)
    server = start_server(behaviour).wait_ready()
    assert server.chat(stop="b").json()["choices"][0]["message"]["content"] == "a"
    assert behaviour.finished[-1].stats.num_steps <= 2
