"""The items of a conversation as `POST /v1/responses` has them, and what can be called in it."""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, FailFast, Field, Tag

from server.protocol.agents import ToolName, few
from server.protocol.messages import Said, text_of
from server.protocol.sampling import String
from server.protocol.wire import Text, Wire

_LONGEST_KIND = 32
NOT_STORED = "nothing is stored here: send all items of the conversation as `input`"


def _text_with_refusals(value: object) -> object:
    """The text of a message, in which a refusal is one as well."""
    if isinstance(value, list):
        value = [
            {"type": "refusal", "text": part.get("refusal")}
            if isinstance(part, dict) and part.get("type") == "refusal"
            else part
            for part in value
        ]
    return text_of(value, ("input_text", "output_text", "text", "refusal"))


def _lines(*kinds: str) -> BeforeValidator:
    return BeforeValidator(partial(text_of, kinds=kinds))


Outputs = Annotated[Text, _lines("input_text", "output_text", "text")]


class SaidMessage(Wire):
    """A message of anyone's; its parts are lines of its content."""

    type: Literal["message"] = "message"
    """What this is."""
    role: Literal["system", "developer", "user", "assistant"]
    """Who says it."""
    content: Annotated[Text, BeforeValidator(_text_with_refusals)]
    """A text, or parts of it."""


class SaidReasoning(Wire):
    """What the model had reasoned; its summary where it does not say more."""

    type: Literal["reasoning"]
    """What this is."""
    summary: Annotated[Text, _lines("summary_text")] = ""
    """A shorter form of it."""
    content: Annotated[Text | None, _lines("reasoning_text", "text")] = None
    """All of it."""


class SaidFunctionCall(Wire):
    """A call of a function that the model has made."""

    type: Literal["function_call"]
    """What this is."""
    call_id: String
    """To which its output refers."""
    name: String
    """The function."""
    namespace: String | None = None
    """The group of tools it belongs to."""
    arguments: Text = ""
    """JSON text."""


class SaidCustomCall(Wire):
    """A call of a tool that takes any text."""

    type: Literal["custom_tool_call"]
    """What this is."""
    call_id: String
    """To which its output refers."""
    name: String
    """The tool."""
    namespace: String | None = None
    """The group of tools it belongs to."""
    input: Text = ""
    """What it was given."""


class SaidOutput(Wire):
    """What a tool has found."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    """What this is."""
    call_id: String
    """The call."""
    output: Outputs
    """A text, or parts of it."""


def _kind(item: object) -> str:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return "output" if kind in _OUTPUTS else str(kind or "message")


_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_ITEMS = ("message", "reasoning", "function_call", "custom_tool_call", *_OUTPUTS)
Item = Annotated[
    Annotated[SaidMessage, Tag("message")]
    | Annotated[SaidReasoning, Tag("reasoning")]
    | Annotated[SaidFunctionCall, Tag("function_call")]
    | Annotated[SaidCustomCall, Tag("custom_tool_call")]
    | Annotated[SaidOutput, Tag("output")],
    Discriminator(_kind),
]


def _items(value: object) -> object:
    """A text is one message of the user's; what is none of our items is refused by its name."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    few(value)
    for item in value if isinstance(value, list) else ():
        kind = item.get("type") or "message" if isinstance(item, dict) else ""
        if kind == "item_reference":
            raise ValueError(NOT_STORED)
        if isinstance(item, dict) and kind not in _ITEMS:
            named = repr(str(kind)[:_LONGEST_KIND])
            raise ValueError(f"an item of type {named} cannot be read: {', '.join(_ITEMS)} can")
    return value


Items = Annotated[
    list[Item], FailFast(), BeforeValidator(_items), Field(min_length=1, strict=False)
]


class FunctionTool(Said):
    """A function; `parameters` is a JSON schema."""

    type: Literal["function"]
    """What this is."""
    name: ToolName
    """Its name."""
    description: Text | None = None
    """What it is for."""
    parameters: dict[str, Any] | None = None
    """What it takes."""


class CustomTool(Said):
    """A tool that takes any text, or one that a grammar has."""

    type: Literal["custom"]
    """What this is."""
    name: ToolName
    """Its name."""
    description: Text | None = None
    """What it is for."""
    format: dict[str, Any] | None = None
    """What its text is like: the model is told, and not held to it."""


class NamespaceTool(Said):
    """A group of tools, which the model knows by the group's name and their own."""

    type: Literal["namespace"]
    """What this is."""
    name: ToolName
    """Its name."""
    tools: list[Annotated[FunctionTool | CustomTool, Field(discriminator="type")]]
    """Its tools."""


class HostedTool(Said):
    """A tool that OpenAI runs, of which the model is not told: nobody would answer its calls."""

    type: Literal["web_search", "web_search_preview", "image_generation", "tool_search"]
    """What this is."""


ResponsesTool = Annotated[
    FunctionTool | CustomTool | NamespaceTool | HostedTool, Field(discriminator="type")
]
