"""`POST /v1/chat/completions`: what a client may ask of it; `chat_reply.py` has the reply."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import FailFast, Field, PlainValidator, ValidationError, model_validator

from server.protocol.foreign import refusal
from server.protocol.messages import Messages, Tool
from server.protocol.request import TextRequest
from server.protocol.sampling import Whole
from server.protocol.wire import Wire, examples

_OURS = ("messages", "tools", "add_generation_prompt", "continue_final_message")


class NamedFunction(Wire):
    """The name of a function."""

    name: str
    """Its name."""


class NamedTool(Wire):
    """The one tool that is to be called."""

    type: Literal["function"]
    """What this is."""
    function: NamedFunction
    """Which function."""


def _tool_choice(value: object) -> object:
    """One readable message instead of one per member of the union."""
    if value in ("auto", "none", "required"):
        return value
    try:
        return NamedTool.model_validate(value)
    except ValidationError:
        named = '{"type": "function", "function": {"name": "..."}}'
        raise ValueError(f"must be 'auto', 'none', 'required' or {named}") from None


_Choices = Literal["auto", "none", "required"] | NamedTool
ToolChoice = Annotated[_Choices, PlainValidator(_tool_choice, json_schema_input_type=_Choices)]


class ChatRequest(TextRequest):
    """The body of `POST /v1/chat/completions`."""

    model_config = examples(
        {"messages": [{"role": "user", "content": "Hello!"}], "max_completion_tokens": 32},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.7,
            "seed": 7,
        },
    )

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **TextRequest.unsupported,
        "modalities": (["text"],),
        "audio": (),
        "verbosity": ("medium",),
        "web_search_options": (),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "documents": ([],),
        "mm_processor_kwargs": ({},),
        # A template is code, and this server has its own.
        "chat_template": (),
        "chat_template_content_format": ("auto", "string"),
        # How a reply is told, the only way that there is.
        "echo": (False,),
        "add_special_tokens": (False,),
        "include_reasoning": (True,),
        "separate_reasoning": (True,),
        "stream_reasoning": (True,),
        "reasoning_format": ("auto", "deepseek"),
        "parse_tool_calls": (True,),
        # Of text completions.
        "prompt": (),
        "suffix": ("",),
        "best_of": (1,),
        "prompt_logprobs": (),
        "truncate_prompt_tokens": (),
    }

    messages: Messages
    """The conversation, which the model's template writes out as its prompt."""
    logprobs: bool = False
    """Whether log-probabilities of the reply's tokens are told."""
    top_logprobs: Whole = Field(default=0, ge=0)
    """How many alternatives are told with each."""
    tools: Annotated[list[Tool], FailFast()] = Field(default_factory=list, max_length=1024)
    """What the model may call."""
    tool_choice: ToolChoice = "auto"
    """Whether it may call at all."""
    parallel_tool_calls: bool = True
    """Whether more than the first call is told."""
    add_generation_prompt: bool = True
    """Whether the template begins the assistant's message."""
    continue_final_message: bool = False
    """Whether the last message is to be continued, in place of a new one."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, max_length=256)
    """Whatever else the template has names for."""
    enable_thinking: bool | None = None
    """Whether to reason first, for templates that ask."""
    reasoning_effort: str | None = None
    """How much to reason, for templates that ask."""

    @model_validator(mode="after")
    def _check_what_goes_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refusal("top_logprobs", "is only allowed when logprobs is true")
        for name in _OURS:
            if name in self.chat_template_kwargs:
                raise refusal("chat_template_kwargs", f"{name} is a field of the body itself")
        if self.continue_final_message:
            self._check_continuation()
        self._check_tool_choice()
        return self

    def _check_tool_choice(self) -> None:
        if self.tool_choice == "required" and not self.tools:
            raise refusal("tool_choice", "'required' needs tools to choose from; send some")
        names = [tool.function.name for tool in self.tools]
        if self.forced_tool is not None and self.forced_tool not in names:
            raise refusal("tool_choice", f"{self.forced_tool[:64]!r} is none of the tools")
        if self.is_calling and self.wanted is not None:
            told = f"forces a call, and {self.wanted.field} another form; leave one of them out"
            raise refusal("tool_choice", told)

    def _check_continuation(self) -> None:
        last = self.messages[-1]
        if last.role != "assistant" or not last.content or last.tool_calls:
            raise refusal(
                "continue_final_message",
                "the last message must be the assistant's, with a content to be continued",
            )
        if self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set:
            raise refusal("continue_final_message", "and add_generation_prompt exclude one another")

    @property
    def forced_tool(self) -> str | None:
        """The name of the tool that is to be called, if one is."""
        choice = self.tool_choice
        return choice.function.name if isinstance(choice, NamedTool) else None

    @property
    def is_calling(self) -> bool:
        """Whether the reply is to be a call of a tool."""
        return self.tool_choice == "required" or self.forced_tool is not None

    @property
    def has_tools(self) -> bool:
        """Whether the model is told of tools, and may call them."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def template_options(self) -> dict[str, Any]:
        """What the template is told beside the conversation."""
        named = {
            "enable_thinking": self.enable_thinking,
            "reasoning_effort": self.reasoning_effort,
        }
        told = {name: value for name, value in named.items() if value is not None}
        return {**told, **self.chat_template_kwargs}
