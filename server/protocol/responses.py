"""`POST /v1/responses`: what a client may ask of it; `responses_reply.py` has the reply."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, FailFast, Field

from server.protocol.agents import MAX_TOOLS, AgentRequest, as_chats_choose
from server.protocol.chat import ToolChoice
from server.protocol.foreign import HARMLESS
from server.protocol.responses_items import NOT_STORED, Items, ResponsesTool
from server.protocol.wire import Text, Wire, examples, told_back


def _not_stored(value: object) -> object:
    raise ValueError(NOT_STORED)


def _no_template(value: object) -> object:
    raise ValueError("no prompts are kept here: send `instructions` and `input`")


class Reasoning(Wire):
    """How the model is to reason."""

    effort: str | None = None
    """Told to the model's template; `none` asks it not to."""
    summary: str | None = None
    """Left aside: reasoning is told as it is."""


class TextSettings(Wire):
    """What the text is to be like."""

    format: dict[str, Any] = Field(default_factory=lambda: {"type": "text"})
    """Its format."""
    verbosity: str | None = None
    """Told to the model's template."""


def _includes(value: object) -> object:
    if isinstance(value, list) and "message.output_text.logprobs" in value:
        raise ValueError("log-probabilities are told by /v1/chat/completions, and not here")
    return value


class ResponsesRequest(AgentRequest):
    """The body of `POST /v1/responses`."""

    model_config = examples(
        {"input": "Is it warm in Oslo?", "max_output_tokens": 8},
        {
            "instructions": "Be brief.",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "Warm?"}]}],
            "max_output_tokens": 8,
            "stream": True,
        },
    )
    form_holder: ClassVar[str] = "text"
    form_name: ClassVar[str] = "text.format"
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **AgentRequest.unsupported,
        "background": (False,),
        "truncation": ("disabled",),
        "modalities": (["text"],),
        "audio": (),
    }
    harmless: ClassVar[frozenset[str]] = HARMLESS | {
        *("client_metadata", "max_tool_calls", "moderation", "prompt_cache_options"),
        "context_management",
    }

    input: Items
    """A text, or the items of a conversation."""
    instructions: Text | None = None
    """What the model is told before all else."""
    tools: Annotated[list[ResponsesTool], FailFast(), BeforeValidator(told_back)] = Field(
        default_factory=list, max_length=MAX_TOOLS
    )
    """What the model may call."""
    tool_choice: Annotated[ToolChoice, BeforeValidator(as_chats_choose)] = "auto"
    """Whether it may."""
    parallel_tool_calls: bool = True
    """Whether it may make several calls at once."""
    reasoning: Annotated[Reasoning | None, BeforeValidator(told_back)] = None
    """How the model is to reason."""
    text: Annotated[TextSettings | None, BeforeValidator(told_back)] = None
    """What the text is to be like."""
    include: Annotated[list[str], BeforeValidator(_includes)] = Field(default_factory=list)
    """What else is to be told; nothing of it is there, and a reply is whole without."""
    metadata: Annotated[dict[str, str], BeforeValidator(told_back)] = Field(default_factory=dict)
    """Told back."""
    previous_response_id: Annotated[None, BeforeValidator(_not_stored)] = None
    """Refused, since nothing is stored."""
    conversation: Annotated[None, BeforeValidator(_not_stored)] = None
    """Refused, since nothing is stored."""
    prompt: Annotated[None, BeforeValidator(_no_template)] = None
    """Refused, since nothing is stored."""
