"""`stagetree chat`: a conversation in this process, each token coloured by its origin."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from engine import Speculation
from server.commands.writing import Writer
from server.protocol import ChatRequest
from server.settings import Settings
from server.translate.conversation import plan_chat


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What is asked for of every reply; None is the default, and of `seed` a random one."""

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    speculation: Speculation
    enable_thinking: bool | None


def chat(
    settings: Settings,
    options: ChatOptions,
    console: Console,
    message: str | None,
    system: str | None,
) -> None:
    """Answer one message, or one line after another until there is none.

    Raises BadRequestError for a model that has no chat template.
    """
    writer = Writer.load(settings, console)
    said: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for line in _lines(console) if message is None else [message]:
        said.append({"role": "user", "content": line})
        body = ChatRequest.model_validate({"messages": said, **asdict(options)})
        plan = plan_chat(body, "chat", writer.planner)
        text = writer.write(plan.sequences[0], plan.manner.shown)
        answer = plan.reader.read(text, is_whole=True)
        said.append({"role": "assistant", "content": answer.content})


def _lines(console: Console) -> Iterator[str]:
    """What is typed, line by line, until an end of file."""
    prompt = "[bold]>[/] " if sys.stdin.isatty() else ""
    while True:
        try:
            line = console.input(prompt)
        except EOFError:
            return
        if line.strip():
            yield line
