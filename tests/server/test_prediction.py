"""Predicted outputs, from OpenAI's client through a real engine process and back."""

from typing import Any

import pytest

from tests.server.command import Command
from tests.server.conftest import LiveServer
from tests.server.fakes import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
DIGITS = TOKENIZER.encode("0123456789")
"""No two of these tokens make another: a text of them is tokenised as it was written."""


def complete(command: Command, prediction: object = None, **body: Any) -> tuple[str, Any, Any]:
    """A text of digits, its details in usage, and the part of each stage."""
    asked = {"seed": 4, "allowed_token_ids": DIGITS, "speculation": "always", **body}
    reply = command.complete(prediction=prediction, **asked)
    stages = {stage["name"]: stage for stage in reply["metrics"]["stages"]}
    return reply["choices"][0]["text"], reply["usage"]["completion_tokens_details"], stages


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_reply_that_was_predicted_is_the_same_in_fewer_steps(
    command: Command, temperature: float
) -> None:
    """Red when a prediction changes a text, is lost on its way, or is counted as a look-up's."""
    asked = {"temperature": temperature, "cache_salt": f"right {temperature}"}
    text, details, _ = complete(command, **asked, speculation="off")
    assert not any(details.values()), details
    parts = [{"type": "text", "text": text[:20]}, {"type": "text", "text": text[20:]}]
    for content in (text, parts):
        asked["cache_salt"] += "again"  # or the look-up would know the reply as well
        predicted, details, stages = complete(
            command, {"type": "content", "content": content}, **asked
        )
        assert predicted == text
        assert details["accepted_prediction_tokens"] > 30
        assert details["accepted_prediction_tokens"] <= stages["prediction"]["accepted"]
        told = sum(details.values())
        assert told == stages["prediction"]["proposed"]


def test_a_prediction_that_parts_from_the_reply_is_taken_up_again(command: Command) -> None:
    """Red when one wrong token is the end of it."""
    text, _, _ = complete(command, temperature=1, cache_salt="edited", speculation="off")
    edited = text[:20] + ("7" if text[20] != "7" else "8") + text[21:]
    prediction = {"type": "content", "content": edited}
    same, details, _ = complete(command, prediction, temperature=1, cache_salt="edited too")
    assert same == text
    assert details["accepted_prediction_tokens"] > 25
    assert details["rejected_prediction_tokens"] > 0


def test_a_wrong_prediction_changes_nothing_and_serves_nobody_else(command: Command) -> None:
    """Red when it is kept for the next request, or a stage of this name stays."""
    text, _, _ = complete(command, temperature=0, speculation="off")
    prediction = {"type": "content", "content": "".join(reversed(text)) * 3}
    assert complete(command, prediction, temperature=0)[0] == text
    same, details, stages = complete(command, temperature=0)
    assert same == text and "prediction" not in stages
    assert set(details.values()) == {0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prediction", "a text"),
        ("prediction", {"type": "content"}),
        ("prediction", {"type": "code", "content": "a"}),
        ("prediction", {"type": "content", "content": 5}),
        ("prediction", {"type": "content", "content": [{"type": "image_url", "text": "a"}]}),
        ("prediction", {"type": "content", "content": "half a pair \ud800"}),
        ("prediction", {"type": "content", "content": "too long " * 1000}),
        ("cache_salt", ""),
        ("cache_salt", 5),
        ("cache_salt", "\ud800"),
        ("bad_words", ["\ud800"]),
    ],
)
def test_what_is_no_prediction_is_refused_by_name(
    live: LiveServer, field: str, value: object
) -> None:
    """Red when it is ignored, or breaks the server."""
    reply = live.complete(**{field: value})
    assert reply.status == 400, reply.body
    assert reply.json()["error"]["param"].startswith(field)


def test_it_reaches_the_engine_as_tokens_without_special_ones(live: LiveServer) -> None:
    """Red when it is tokenised as a prompt is, or the salt is left behind."""
    prediction = {"type": "content", "content": "hello world"}
    reply = live.complete(prediction=prediction, cache_salt="mine", n=2)
    assert reply.status == 200, reply.body
    for request in live.behaviour.requests[-2:]:
        assert list(request.prediction) == TOKENIZER.encode("hello world", False)
        assert request.cache_salt == "mine"
