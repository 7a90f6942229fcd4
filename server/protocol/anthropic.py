"""`POST /v1/messages`, Anthropic's API: what a client may ask; `anthropic_reply.py` has replies."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, FailFast, Field, Tag

from server.protocol.agents import MAX_TOOLS, AgentRequest, ToolName, as_chats_choose, few
from server.protocol.chat import ToolChoice
from server.protocol.foreign import HARMLESS
from server.protocol.messages import Said, text_of
from server.protocol.sampling import String, Whole
from server.protocol.wire import Text, Wire, examples

_LONGEST_KIND = 32
_BILLING = "x-anthropic-"


class TextBlock(Wire):
    """A text."""

    type: Literal["text"]
    """What this is."""
    text: Text
    """The text."""


class ThinkingBlock(Wire):
    """What the model had thought."""

    type: Literal["thinking"]
    """What this is."""
    thinking: Text
    """The text."""


class HiddenBlock(Wire):
    """What a model elsewhere had thought and nobody can read: it is left aside."""

    type: Literal["redacted_thinking"]
    """What this is."""


class ToolUseBlock(Wire):
    """A call that the model has made."""

    type: Literal["tool_use"]
    """What this is."""
    id: String
    """To which its result refers."""
    name: String
    """The tool."""
    input: dict[str, Any] = Field(default_factory=dict)
    """What it was given."""


class ToolResultBlock(Said):
    """What a tool has found; whether that is an error reaches the template as `is_error`."""

    type: Literal["tool_result"]
    """What this is."""
    tool_use_id: String
    """The call."""
    content: Annotated[Text, BeforeValidator(text_of)] = ""
    """A text, or blocks of it."""
    is_error: bool = False
    """Whether the tool has failed."""


def _kind(block: object) -> str:
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return str(kind)


_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")
Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[HiddenBlock, Tag("redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")],
    Discriminator(_kind),
]


def _blocks(value: object) -> object:
    """A text is one block; what is none of ours is refused by its name."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    for block in value if isinstance(value, list) else ():
        if not isinstance(block, dict):
            raise ValueError('must be a string or a list of blocks such as {"type": "text"}')
        if (kind := block.get("type")) not in _BLOCKS:
            named = repr(str(kind)[:_LONGEST_KIND])
            raise ValueError(f"a block of type {named} cannot be read: this model reads text alone")
    return value


class Turn(Wire):
    """A message of one side."""

    role: Literal["user", "assistant", "system"]
    """Who says it."""
    content: Annotated[list[Block], BeforeValidator(_blocks)]
    """A text, or blocks."""


def _system(value: object) -> object:
    """Blocks are lines; one that is for Anthropic's bills alone changes with every request."""
    if isinstance(value, list):
        value = [block for block in value if not _is_bill(block)]
    return text_of(value)


def _is_bill(block: object) -> bool:
    text = block.get("text") if isinstance(block, dict) else None
    return isinstance(text, str) and text.startswith(_BILLING)


class AnthropicTool(Said):
    """What the model may call; `input_schema` is a JSON schema."""

    type: Literal["custom"] = "custom"
    """What this is: tools that Anthropic runs are refused."""
    name: ToolName
    """Its name."""
    description: Text | None = None
    """What it is for."""
    input_schema: dict[str, Any]
    """What it takes."""


class AnthropicToolChoice(Wire):
    """Whether the model may call tools, and how many at once."""

    choice: ToolChoice = "auto"
    """As chats choose."""
    disable_parallel_tool_use: bool = False
    """Whether one call alone is told."""


def _tool_choice(value: object) -> object:
    """What is chosen, apart from how many."""
    if isinstance(value, dict):
        limit = {name: value[name] for name in ("disable_parallel_tool_use",) if name in value}
        return {"choice": as_chats_choose(value), **limit}
    return value


class Thinking(Wire):
    """Whether the model is to think, told to its template."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    """`adaptive` leaves it to the template."""
    budget_tokens: Whole | None = Field(default=None, ge=0)
    """Left aside: the reply's limit counts what is thought."""


class OutputConfig(Wire):
    """What the reply is to be like."""

    effort: str | None = None
    """Told to the model's template as `reasoning_effort`."""
    format: dict[str, Any] | None = None
    """The text's format."""


class PromptRequest(AgentRequest):
    """A body of which the prompt is counted."""

    model_config = examples(
        {"messages": [{"role": "user", "content": "Is it warm in Oslo?"}]},
    )
    form_holder: ClassVar[str] = "output_config"
    form_name: ClassVar[str] = "output_config.format"
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **AgentRequest.unsupported,
        "mcp_servers": ([],),
        "container": (),
    }
    harmless: ClassVar[frozenset[str]] = HARMLESS | {
        # Hints, bills and what is edited of prompts that are too long: none is here.
        *("cache_control", "context_management", "diagnostics", "inference_geo", "speed"),
        *("user_profile_id", "workspace_id", "betas", "anthropic_version"),
    }

    messages: Annotated[
        list[Turn], FailFast(), BeforeValidator(few), Field(min_length=1, max_length=100_000)
    ]
    """The conversation; a text of the assistant's at its end is continued."""
    system: Annotated[Text | None, BeforeValidator(_system)] = None
    """What the model is told before all else."""
    tools: Annotated[list[AnthropicTool], FailFast()] = Field(
        default_factory=list, max_length=MAX_TOOLS
    )
    """What the model may call."""
    tool_choice: Annotated[AnthropicToolChoice, BeforeValidator(_tool_choice)] = Field(
        default_factory=AnthropicToolChoice
    )
    """Whether it may."""
    thinking: Thinking | None = None
    """Whether it is to think."""
    output_config: OutputConfig | None = None
    """What the reply is to be like."""
    thread: dict[str, Any] | None = None
    """Refused, since nothing is stored, so that the SDK asks again without."""


class MessagesRequest(PromptRequest):
    """The body of `POST /v1/messages`."""

    model_config = examples(
        {"messages": [{"role": "user", "content": "Is it warm in Oslo?"}], "max_tokens": 8},
        {
            "system": "Be brief.",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Warm?"}]}],
            "max_tokens": 8,
            "stream": True,
        },
    )
    max_tokens: Whole = Field(ge=0)
    """Tokens of the reply at most, those that are thought too; 0 reads the prompt."""
