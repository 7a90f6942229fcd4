"""Speculation on and off over all that can be asked for together: completions, chats, company."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.command import PROMPT, Command
from tests.server.fakes import byte_level_tokenizer

IDS = byte_level_tokenizer().encode(PROMPT)
TOOL = {"type": "function", "function": {"name": "weather"}}
WAYS = ("off", "always", "auto")
Asked = tuple[str, dict[str, Any]]

SEED = {"seed": st.integers(-(2**63), 2**64 - 1)}
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0, 0.7, 1.5, 3.0]),
    "top_p": st.just(0.9),
    "top_k": st.just(20),
    "min_p": st.just(0.02),
    "typical_p": st.just(0.8),
    "top_n_sigma": st.just(1.5),
    "xtc_probability": st.just(0.5),
    "dry_multiplier": st.just(0.8),
    "frequency_penalty": st.just(0.7),
    "presence_penalty": st.just(-0.5),
    "repetition_penalty": st.just(1.2),
    "logit_bias": st.just({"65": 5, "60": 8, "123": 4}),
    "bad_words": st.just(["h", "el"]),
    "min_tokens": st.integers(0, 4),
    "stop": st.lists(st.text("elo hwrd_(:\n", min_size=1, max_size=3), max_size=14),
    "include_stop_str_in_output": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "ignore_eos": st.booleans(),
    "prediction": st.just({"type": "content", "content": PROMPT}),
    "return_token_ids": st.booleans(),
}
"""What may be left out of any body."""


@st.composite
def completions(draw: st.DrawFn) -> Asked:
    """A body for `/completions`."""
    n = draw(st.integers(1, 2))
    prompts = [PROMPT, IDS, [IDS[:7], IDS], "", ["hello", "world"]]
    body = {
        "prompt": draw(st.sampled_from(prompts)),
        "n": n,
        "best_of": draw(st.sampled_from([None, n, n + 1])),
        "max_tokens": draw(st.sampled_from([4, 5, 24])),
        "logprobs": draw(st.sampled_from([None, 0, 2])),
        "echo": draw(st.booleans()),
        "truncate_prompt_tokens": draw(st.sampled_from([None, 3, -1])),
        "prompt_logprobs": draw(st.sampled_from([None, 1])),
    }
    return "/completions", body | draw(st.fixed_dictionaries(SEED, optional=COMMON))


texts = st.sampled_from(["def hello(world):", "hello hello hello", "a", "<think>x</think>y", ""])
roles = st.sampled_from(["system", "user", "assistant"])
messages = st.lists(
    st.fixed_dictionaries({"role": roles, "content": texts}), min_size=1, max_size=3
)


@st.composite
def chats(draw: st.DrawFn) -> Asked:
    """A body for `/chat/completions`."""
    own = {
        "n": st.integers(1, 3),
        "logprobs": st.just(True),
        "tools": st.just([TOOL]),
        "tool_choice": st.sampled_from(["auto", "none"]),
        "parallel_tool_calls": st.booleans(),
        "enable_thinking": st.booleans(),
    }
    body = {"messages": draw(messages), "max_tokens": draw(st.integers(4, 40))}
    common = draw(st.fixed_dictionaries(SEED, optional=COMMON))
    return "/chat/completions", body | common | draw(st.fixed_dictionaries({}, optional=own))


AGENTS: dict[str, tuple[str, list[Any]]] = {
    "/responses": ("max_output_tokens", [{"type": "function", "name": "weather"}]),
    "/messages": ("max_tokens", [{"name": "weather", "input_schema": {}}]),
}


@st.composite
def agents(draw: st.DrawFn) -> Asked:
    """A body for one of the APIs for agents."""
    path = draw(st.sampled_from([*AGENTS]))
    most, tools = AGENTS[path]
    said = "input" if path == "/responses" else "messages"
    body = {said: draw(messages), most: draw(st.integers(4, 40))}
    common = {name: value for name, value in COMMON.items() if name != "return_token_ids"}
    body |= draw(st.fixed_dictionaries(SEED, optional=common))
    return path, body | draw(st.fixed_dictionaries({}, optional={"tools": st.just(tools)}))


def told(command: Command, asked: Asked, speculation: str) -> Any:
    """What a client is told, but the figures of log-probabilities, which may round otherwise."""
    path, body = asked
    named = {"model": "tiny", **body, "speculation": speculation}
    reply: Any = command.client.post(path, body=named, cast_to=object)
    for choice in reply["choices"]:
        for number, call in enumerate(choice.get("message", {}).get("tool_calls", [])):
            call["id"] = number
        choice["logprobs"] = _names(choice.get("logprobs") or {})
        choice["prompt_logprobs"] = len(choice.get("prompt_logprobs") or [])
    return reply["choices"], reply["usage"]["completion_tokens"]


def _names(logprobs: dict[str, Any]) -> Any:
    """The tokens of log-probabilities, and where they begin."""
    of_chat = [token["token"] for token in logprobs.get("content") or []]
    return of_chat, logprobs.get("tokens"), logprobs.get("text_offset")


def check_company(command: Command, asked: list[Asked]) -> None:
    """Several requests at once are told what each is told alone."""
    alone = [told(command, each, "off") for each in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        for ways in (WAYS[1:] * len(asked), WAYS * len(asked)):
            work = zip(asked, ways, strict=False)
            futures = [threads.submit(told, command, each, way) for each, way in work]
            assert [future.result() for future in futures] == alone


@settings(max_examples=20)
@given(completions() | chats())
def test_it_changes_nothing_of_a_reply_whatever_is_asked_for_together(
    command: Command, asked: Asked
) -> None:
    """Red when a parameter, a call or a thought sees the block that a token came in."""
    plain, *drafted = (told(command, asked, way) for way in WAYS)
    assert drafted == [plain, plain]


@settings(max_examples=3)
@given(st.lists(completions() | chats(), min_size=3, max_size=3))
def test_nor_in_company(command: Command, asked: list[Asked]) -> None:
    """Red when a text depends on who else is written."""
    check_company(command, asked)


@settings(max_examples=12)
@given(agents())
def test_it_changes_nothing_of_a_reply_to_an_agent(command: Command, asked: Asked) -> None:
    """Red when a tree changes an item, a block, an end or a count of these APIs."""
    plain, drafted = (written(command, asked, way) for way in WAYS[:2])
    assert drafted == plain


def written(command: Command, asked: Asked, speculation: str) -> dict[str, Any]:
    """What is told of a reply, but what is of its time, and how much of a prompt was known."""
    path, body = asked
    named = {"model": "tiny", **body, "speculation": speculation}
    reply: Any = command.client.post(path, body=named, cast_to=object)
    usage = reply["usage"]
    told = {name: usage[name] for name in ("output_tokens", "output_tokens_details")}
    told |= {name: reply.get(name) for name in ("status", "stop_reason", "stop_sequence", "seed")}
    parts = [dict(part) for part in reply.get("output", reply.get("content"))]
    return {**told, "parts": [{**part, "id": "", "call_id": ""} for part in parts]}


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(completions() | chats(), min_size=1, max_size=5))
def test_nor_in_any_company(command: Command, asked: list[Asked]) -> None:
    """Red as above, of what is rarer."""
    check_company(command, asked)
