"""What form a reply is to have, from the wire's words to the engine's constraint.

In a chat reasoning comes first, where the template has marks for it, and the form is that of what
follows; forced calls are a form too.
"""

import json
from typing import Any

from engine import Constraint
from server.message import Format, Thinking, constant, sequence
from server.protocol import Wanted
from server.text import Tokenizer

_KINDS = {"json": "json_schema"}
_MOST_BLANKS = 2
"""Line ends between reasoning and what follows."""


def constraint_of(wanted: Wanted | None) -> Constraint | None:
    """The form of a whole reply."""
    if wanted is None:
        return None
    value = wanted.value
    match wanted.kind:
        case "json":
            return Constraint("json_schema", json.dumps(value))
        case "choice":
            return Constraint("choice", json.dumps(value))
        case "structural_tag":
            return tagged(value)
        case "regex" | "grammar" as kind:
            return Constraint(kind, value)


def tagged(form: Format) -> Constraint:
    """A format as a constraint."""
    tag = {"type": "structural_tag", "format": form}
    return Constraint("structural_tag", json.dumps(tag))


def format_of(wanted: Wanted) -> Format:
    """The form as a part of a larger one."""
    value = wanted.value
    match wanted.kind:
        case "json":
            return {"type": "json_schema", "json_schema": value}
        case "regex":
            return {"type": "regex", "pattern": value}
        case "grammar":
            return {"type": "grammar", "grammar": value}
        case "choice":
            return {"type": "or", "elements": [constant(each) for each in value]}
        case "structural_tag":
            tag: Format = value
            return tag


def mark_of(tokenizer: Tokenizer, text: str) -> Format:
    """A mark as a token, if it is a special one, or else as text."""
    for token, name in tokenizer.specials.items():
        if name == text:
            return {"type": "token", "token": token}
    return constant(text)


def after_reasoning(
    form: Format, thinking: Thinking, prompt: str, is_thinking: bool, tokenizer: Tokenizer
) -> Format:
    """A form for what follows reasoning, which the prompt may have begun, or left out."""
    if not is_thinking and prompt.rstrip().endswith(thinking.closing):
        return form
    blanks = {"type": "regex", "pattern": f"\\n{{0,{_MOST_BLANKS}}}"}
    rest = [_until(mark_of(tokenizer, thinking.closing)), blanks]
    if is_thinking:
        return sequence(*rest, form)
    opening = mark_of(tokenizer, thinking.opening)
    return sequence({"type": "optional", "content": sequence(opening, *rest)}, form)


def _until(mark: Format) -> Format:
    """Any text up to a mark, and that."""
    content: dict[str, Any] = {"type": "any_text"}
    if mark["type"] == "token":
        content = {"type": "any_tokens", "exclude_tokens": [mark["token"]]}
        return sequence(content, mark)
    return {"type": "tag", "begin": "", "content": content, "end": mark["value"]}
