"""How families of models mark reasoning and write calls, and which of it a template is for."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class Thinking:
    """What begins and ends reasoning."""

    opening: str
    closing: str


Form = Literal["object", "named", "tags"]
"""How one call is written.

As an `object`, `{"name": ..., "arguments": {...}}`, or a list of them; by a name before the JSON of
its arguments, where it is `named`; or in `tags`.
"""


_NO_NAME = re.compile(r"(?!)()")
# Nothing is given back, or a text of many brackets would be read in ever more ways.
_MISTRAL = re.compile(r"\s*+([\w.:/\-]++)\s*+(?:\[CALL_ID\]\s*+\w++\s*+)?+(?:\[ARGS\])?+\s*+(?=\{)")
_DEEPSEEK = re.compile(
    r"\s*+(?:function<｜tool▁sep｜>)?+([\w.:/\-]++)(?:<｜tool▁sep｜>|\s*+```json)\s*+(?=\{)"
)


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How calls are written, after any of the openings and up to the closing.

    `marks` may stand among what a call is written with. Of a form with names, the first group of
    `name` is one, and the JSON begins where that ends; `endings` may follow, one after another. A
    call that `is_bare` may also stand at the very beginning, without an opening. Whatever
    `is_doubtful`, as JSON may also be meant for a reader, is a call only if it has the name of a
    tool.
    """

    openings: tuple[str, ...]
    closing: str = ""
    marks: tuple[str, ...] = ()
    form: Form = "object"
    name: re.Pattern[str] = _NO_NAME
    endings: tuple[str, ...] = ()
    is_bare: bool = False
    is_doubtful: bool = False


_THINKING = (
    Thinking("<think>", "</think>"),
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<seed:think>", "</seed:think>"),
)

_JSON_FENCES = ("```json", "```tool_call", "```")
STYLES: Mapping[str, CallStyle] = MappingProxyType(
    {
        "qwen3coder": CallStyle(("<tool_call>",), "</tool_call>", form="tags"),
        "hermes": CallStyle(("<tool_call>",), "</tool_call>"),
        "granite": CallStyle(("<|tool_call|>",), "<|/tool_call|>"),
        "mistral": CallStyle(
            ("[TOOL_CALLS]",), "", ("[ARGS]", "[CALL_ID]"), form="named", name=_MISTRAL
        ),
        "deepseek": CallStyle(
            ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "<｜tool▁call▁begin｜>"),
            "",
            (
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜>",
            ),
            form="named",
            name=_DEEPSEEK,
            endings=("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        ),
        "llama3": CallStyle(("<|python_tag|>",), is_bare=True, is_doubtful=True),
        "fenced": CallStyle(_JSON_FENCES, "```", is_bare=True, is_doubtful=True),
    }
)
"""By the names that `--tool-parser` has for them."""

_SIGNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qwen3coder": ("<function=", "<parameter="),
        "hermes": ("<tool_call>",),
        "granite": ("<|tool_call|>",),
        "mistral": ("[TOOL_CALLS]",),
        "deepseek": ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
        "llama3": ('"parameters":', '"name":'),
        "fenced": ("```json", '"name"'),
    }
)
"""What a template that tells of a style has in it, all of it; the first style counts."""

_UNREAD = "<arg_key>"
"""GLM's templates have it, in calls that open as those of Hermes and are no JSON."""

Mentions = Callable[[str], bool]
"""Whether a template has these words in it."""


def detect_style(mentions: Mentions) -> str | None:
    """The style that a template tells a model to write calls in, by the words in it."""
    found = (name for name, signs in _SIGNS.items() if all(map(mentions, signs)))
    return None if mentions(_UNREAD) else next(found, None)


def detect_thinking(mentions: Mentions) -> Thinking | None:
    """The marks of reasoning that a template knows of."""
    return next((each for each in _THINKING if mentions(each.closing)), None)
