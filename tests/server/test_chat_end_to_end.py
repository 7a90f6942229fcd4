"""Chat through the command itself, with a real engine over tiny random models."""

from typing import Any

from tests.server.command import Command


def test_a_stream_adds_up_to_the_whole_reply(command: Command) -> None:
    """Red when the real engine's steps are folded wrongly."""
    said: list[Any] = [{"role": "user", "content": "def hello("}]
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 40, "extra_body": {"ignore_eos": True}}
    create = command.client.chat.completions.create
    whole = create(model="tiny", messages=said, **body).choices[0].message.content
    chunks = list(create(model="tiny", messages=said, stream=True, **body))
    assert whole and "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
