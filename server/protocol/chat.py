"""`POST /v1/chat/completions`: what a client may ask of it; `chat_reply.py` has the reply."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, model_validator

from server.protocol.foreign import refusal
from server.protocol.messages import Messages, Tool
from server.protocol.request import TextRequest
from server.protocol.sampling import Whole

_OURS = ("messages", "tools", "add_generation_prompt", "continue_final_message")


def _tool_choice(value: object) -> object:
    """The two that need no grammar."""
    if value in ("auto", "none"):
        return value
    if value == "required" or isinstance(value, dict):
        raise ValueError(
            "calls cannot be forced here, as that takes grammars: send 'auto' and let the "
            "prompt ask for a call, or 'none'"
        )
    raise ValueError("must be 'auto' or 'none'")


ToolChoice = Annotated[Literal["auto", "none"], BeforeValidator(_tool_choice)]


class ChatRequest(TextRequest):
    """The body of `POST /v1/chat/completions`."""

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
    logprobs: bool = False
    top_logprobs: Whole = Field(default=0, ge=0)
    tools: Annotated[list[Tool], FailFast()] = Field(default_factory=list, max_length=1024)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, max_length=256)
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None

    @model_validator(mode="after")
    def _check_what_goes_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refusal("top_logprobs", "is only allowed when logprobs is true")
        for name in _OURS:
            if name in self.chat_template_kwargs:
                raise refusal("chat_template_kwargs", f"{name} is a field of the body itself")
        if self.continue_final_message:
            self._check_continuation()
        return self

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
