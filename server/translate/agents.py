"""What the translations of the two APIs for agents have in common: their bodies are chats."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from server.errors import BadRequestError
from server.protocol import ChatRequest, TextRequest, Tool
from server.protocol.agents import AgentRequest
from server.protocol.messages import FunctionSpec
from server.protocol.structured import StructureFields

_JOINED = ("system", "user", "assistant")
_SAID = ("content", "reasoning_content", "tool_calls")
"""Of an assistant's message: without any of these it says nothing."""


def chat_of(
    body: AgentRequest, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], **more: Any
) -> ChatRequest:
    """The chat that a body is, checked as chats are; raises BadRequestError."""
    said = {"messages": [*messages], "tools": [*tools], **more}
    # Of these some exclude one another.
    said |= {name: getattr(body, name) for name in StructureFields.model_fields}
    try:
        chat = ChatRequest.model_validate(said)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        param = first.get("ctx", {}).get("param") or ".".join(map(str, first["loc"]))
        told = f"{param}: {first['msg']}".replace("response_format", body.form_name)
        raise BadRequestError(told, param=param) from invalid
    return chat.model_copy(update={name: getattr(body, name) for name in TextRequest.model_fields})


def tool_of(name: str, description: str | None, parameters: dict[str, Any] | None) -> Tool:
    """A function as chats have it."""
    spec = FunctionSpec.model_construct(name=name, description=description, parameters=parameters)
    return Tool.model_construct(type="function", function=spec)


def call_of(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    """A message that is a call."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "function": function}]}


def joined(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What one side says in a row is one message: many templates take turns strictly."""
    told: list[dict[str, Any]] = []
    for message in messages:
        role = "system" if message["role"] == "developer" else message["role"]
        if role == "assistant" and not any(message.get(name) for name in _SAID):
            continue
        if told and told[-1]["role"] == role and role in _JOINED:
            told[-1] = _sum(told[-1], message)
        else:
            told.append({**message, "role": role})
    return told


def _sum(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """One message of two."""
    told = {**second, **first}
    for name in ("content", "reasoning_content"):
        texts = [message[name] for message in (first, second) if message.get(name)]
        if texts:
            told[name] = "\n\n".join(texts)
    if calls := [*first.get("tool_calls", ()), *second.get("tool_calls", ())]:
        told["tool_calls"] = calls
    return told
