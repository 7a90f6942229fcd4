"""How families of models mark reasoning and write calls, and which of it a template is for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Thinking:
    """What begins and ends reasoning."""

    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How calls are written: `{"name": ..., "arguments": {...}}`, or a list, after an opening.

    `marks` may stand among what a call is written with. A call that `is_bare` may also stand at the
    very beginning, without an opening. Whatever `is_doubtful`, as JSON may also be meant for a
    reader, is a call only if it has the name of a tool. What `is_named` has the name outside
    the JSON, which is the arguments alone.
    """

    openings: tuple[str, ...]
    closing: str = ""
    marks: tuple[str, ...] = ()
    is_bare: bool = False
    is_doubtful: bool = False
    is_named: bool = False


_THINKING = (
    Thinking("<think>", "</think>"),
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<seed:think>", "</seed:think>"),
)

STYLES: Mapping[str, CallStyle] = MappingProxyType(
    {
        "hermes": CallStyle(("<tool_call>",), "</tool_call>"),
        "llama3": CallStyle(("<|python_tag|>",), is_bare=True, is_doubtful=True),
        "mistral": CallStyle(("[TOOL_CALLS]",), marks=("[ARGS]", "[CALL_ID]"), is_named=True),
        "fenced": CallStyle(("```json", "```tool_call", "```"), "```", (), True, True),
    }
)
"""By the names that `--tool-parser` has for them."""

_SIGNS = {
    "hermes": ("<tool_call>",),
    "mistral": ("[TOOL_CALLS]",),
    "llama3": ("<|python_tag|>", '"parameters"'),
    "fenced": ("```json", "```tool_call"),
}
Mentions = Callable[[str], bool]
"""Whether a template has these words in it."""


def detect_style(mentions: Mentions) -> str | None:
    """The style that a template tells a model to write calls in, by the words in it."""
    found = (name for name, signs in _SIGNS.items() if any(map(mentions, signs)))
    return next(found, None)


def detect_thinking(mentions: Mentions) -> Thinking | None:
    """The marks of reasoning that a template knows of."""
    return next((each for each in _THINKING if mentions(each.closing)), None)
