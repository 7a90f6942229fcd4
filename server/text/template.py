"""Chat templates: conversations written out as a model was taught to read them.

A template is Jinja from a checkpoint, so it runs in Jinja's sandbox, over plain JSON, with the
names that transformers gives it (`transformers/utils/chat_template_utils.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Never

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine import ConfigError, in_one_line
from server.errors import BadRequestError

Conversation = Sequence[Mapping[str, Any]]

_HERE = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks where a message is to be continued; templates may cut white space at its end, as there."""


_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """One template with the special tokens that it may name."""

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def render(
        self,
        messages: Conversation,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as one text; `options` are whatever else the template has names for.

        Raises BadRequestError with what the template says of a conversation that it refuses.
        """
        names = {
            **self.special_tokens,
            "documents": None,
            **options,
            "messages": list(messages),
            "tools": tools and list(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return compiled(self.source).render(names)
        except Exception as error:  # whatever foreign code may raise
            reason = str(error).encode(errors="replace").decode()  # it may quote what is no text
            said = " ".join(reason.split())[:_LONGEST_REASON] or type(error).__name__
            raise BadRequestError(
                f"messages: the chat template cannot write them: {said}", param="messages"
            ) from error

    def render_open(
        self,
        messages: Conversation,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """The same, up to the end of the last message's content, for a reply that goes on there."""
        *before, last = messages
        marked = {**last, "content": last["content"] + _HERE}
        text = self.render([*before, marked], tools, options, add_generation_prompt=False)
        whole, _, _ = text.rpartition(_HERE)
        cut, mark, _ = text.rpartition(_HERE.strip())
        if not mark:
            raise BadRequestError(
                "continue_final_message: the chat template leaves the last message out",
                param="continue_final_message",
            )
        return whole or cut.rstrip()

    def mentions(self, words: str) -> bool:
        """Whether the template has these words in it."""
        return words in self.source


@dataclass(frozen=True, slots=True)
class ChatTemplates:
    """The templates of a model by name, as its checkpoint has them."""

    sources: Mapping[str, str]
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def choose(self, has_tools: bool, override: str | None = None) -> ChatTemplate | None:
        """The one for a conversation, with tools or without; None if there is none at all."""
        named = (("tool_use",) if has_tools else ()) + ("default",)
        found = (self.sources[name] for name in named if name in self.sources)
        source = next(found, None) if override is None else override
        return None if source is None else ChatTemplate(source, self.special_tokens)


NO_TEMPLATES = ChatTemplates(MappingProxyType({}))
"""Those of a base model."""


@lru_cache(maxsize=8)
def compiled(source: str) -> jinja2.Template:
    """A template ready to run. Raises jinja2.TemplateError for what is none."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment.from_string(source)


def check_template(source: str) -> None:
    """Refuse what is named as a template and is none; raises ConfigError."""
    try:
        compiled(source)
    except jinja2.TemplateError as error:
        raise ConfigError(
            f"--chat-template: it is no Jinja template: {in_one_line(error)}. Name a file such as "
            "the chat_template.jinja of a checkpoint."
        ) from error


class _Generation(Extension):
    """`{% generation %}` marks what a model is trained on, and changes no text."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja reads it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would escape HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> Never:
    raise jinja2.TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)
