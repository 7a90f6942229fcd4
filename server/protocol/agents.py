"""What the bodies of the two APIs for agents have in common: one reply, of a conversation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from server.protocol.foreign import refusal
from server.protocol.messages import MAX_MESSAGES
from server.protocol.request import TextRequest

MAX_TOOLS = 1024
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}$")]


def few(items: object) -> object:
    """Refuse by their number, before any is looked at, what would hold up others."""
    if not isinstance(items, list):
        return items
    contents = [each.get("content") for each in items if isinstance(each, dict)]
    number = len(items) + sum(len(each) for each in contents if isinstance(each, list))
    if number > 4 * MAX_MESSAGES:
        raise ValueError(f"{number} items and parts are more than the {4 * MAX_MESSAGES} allowed")
    return items


def as_chats_choose(value: object) -> object:
    """A choice of tools in the words that chats have for it, which say what can be chosen."""
    if not isinstance(value, dict):
        return value
    if isinstance(name := value.get("name"), str):
        namespace = value.get("namespace")
        whole = f"{namespace}.{name}" if isinstance(namespace, str) else name
        return {"type": "function", "function": {"name": whole}}
    kind = value.get("type")
    if kind == "allowed_tools":
        raise ValueError("allowed_tools are not supported: send those tools alone, and 'auto'")
    return "required" if kind == "any" else kind if kind in ("auto", "none") else value


class AgentRequest(TextRequest):
    """A body that asks for one reply; `form_holder` is the field that has the `format` of it."""

    form_holder: ClassVar[str]
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **TextRequest.unsupported,
        "logprobs": (False,),
        "top_logprobs": (0,),
        "echo": (False,),
        "best_of": (1,),
        "prompt_logprobs": (),
    }

    @model_validator(mode="before")
    @classmethod
    def _ask_for_a_form(cls, data: object) -> object:
        """The form of the reply, which is a field of its own elsewhere."""
        holder = data.get(cls.form_holder) if isinstance(data, dict) else None
        form = holder.get("format") if isinstance(holder, dict) else None
        if isinstance(data, dict) and isinstance(form, dict):
            return {**data, "response_format": form}
        return data

    @model_validator(mode="after")
    def _ask_for_one_reply(self) -> Self:
        if self.n != 1:
            raise refusal("n", "this API has one reply: leave it out")
        for name in ("return_token_ids", "return_trace"):
            if getattr(self, name):
                raise refusal(name, "this API has no place for them: leave it out")
        return self
