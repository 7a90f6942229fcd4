"""What form a reply is to have: in the words of OpenAI, vLLM, SGLang and llama-server, read as one.

Each says it in fields of its own; a body says it once.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from server.protocol.foreign import refusal
from server.protocol.wire import Text, Wire, is_encodable

ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
"""The schema of `json_object`: an object, of whatever is JSON."""

Kind = Literal["json", "regex", "choice", "grammar", "structural_tag"]
_BEYOND = frozenset(
    ["disable_fallback", "disable_any_whitespace", "disable_additional_properties", "backend"]
)
"""Of vLLM's `structured_outputs`: how its libraries go about it."""


class Wanted(NamedTuple):
    """A form, and the field that asks for it: a JSON schema, a text, a list of texts, or a tag."""

    field: str
    kind: Kind
    value: Any


Choices = Annotated[list[Text], Field(min_length=1, max_length=1024)]


class StructureFields(Wire):
    """All fields that ask for a form, of which a body has one at most."""

    form_name: ClassVar[str] = "response_format"
    """What clients call that of OpenAI's chats."""

    response_format: dict[str, Any] | None = None
    """The form of the reply, of type text, json_object, json_schema or structural_tag."""
    structured_outputs: dict[str, Any] | None = None
    """The same in vLLM's words: json, regex, choice, grammar, json_object or structural_tag."""
    guided_json: dict[str, Any] | Text | None = None
    """A JSON schema that the reply keeps."""
    guided_regex: Text = ""
    """A regular expression that the whole reply matches."""
    guided_choice: Choices | None = None
    """Texts of which the reply is one."""
    guided_grammar: Text = ""
    """A grammar in EBNF of which the reply is a word."""
    grammar: Text = ""
    """The same, as llama-server has it (GBNF)."""
    json_schema: dict[str, Any] | Text | None = None
    """A JSON schema that the reply keeps, as llama-server has it."""

    @model_validator(mode="after")
    def _ask_for_one_form(self) -> Self:
        forms = list(self._forms())
        if len(forms) > 1:
            raise refusal(forms[1].field, f"and {forms[0].field} ask for two forms; send one")
        return self

    @property
    def wanted(self) -> Wanted | None:
        """The form that is asked for, if any is."""
        return next(self._forms(), None)

    def _forms(self) -> Iterator[Wanted]:
        yield from _of_response_format(self.form_name, self.response_format or {})
        for name, value in (self.structured_outputs or {}).items():
            yield from _of_structured_outputs(name, value)
        for field in ("guided_json", "json_schema"):
            if (schema := getattr(self, field)) is not None:
                yield Wanted(field, "json", _parsed(field, schema))
        if self.guided_regex:
            yield Wanted("guided_regex", "regex", self.guided_regex)
        if self.guided_choice:
            yield Wanted("guided_choice", "choice", self.guided_choice)
        for field in ("guided_grammar", "grammar"):
            if grammar := getattr(self, field):
                yield Wanted(field, "grammar", grammar)


def _of_response_format(name: str, given: dict[str, Any]) -> Iterator[Wanted]:
    """OpenAI's three kinds, of which llama-server's may have a schema, and vLLM's fourth."""
    match given.get("type", None if given else "text"):
        case "text":
            return
        case "json_object":
            schema = given.get("schema", ANY_OBJECT)
            yield Wanted(name, "json", _parsed(name, schema))
        case "json_schema":
            inner = given.get("json_schema", given)
            if not isinstance(inner, dict) or inner.get("schema") is None:
                told = 'of type json_schema must have "json_schema": {"name": ..., "schema": {...}}'
                raise refusal(name, told)
            yield Wanted(name, "json", _parsed(name, inner["schema"]))
        case "structural_tag":
            yield Wanted(name, "structural_tag", _tag(name, given))
        case _:
            told = "must be of type text, json_object, json_schema or structural_tag"
            raise refusal(name, told)


def _of_structured_outputs(name: str, value: Any) -> Iterator[Wanted]:
    """vLLM's, one of which may be given."""
    field = "structured_outputs"
    if value is None or value is False or name in _BEYOND:
        return
    match name:
        case "json":
            yield Wanted(field, "json", _parsed(field, value))
        case "json_object":
            yield Wanted(field, "json", ANY_OBJECT)
        case "regex" | "grammar" if isinstance(value, str) and is_encodable(value):
            yield Wanted(field, "regex" if name == "regex" else "grammar", value)
        case "choice" if isinstance(value, list) and all(isinstance(e, str) for e in value):
            yield Wanted(field, "choice", value)
        case "structural_tag":
            yield Wanted(field, "structural_tag", _tag(field, _parsed(field, value)))
        case "regex" | "grammar" | "choice":
            raise refusal(
                field, f"{name} must be a {'list of texts' if name == 'choice' else 'text'}"
            )
        case _:
            known = "json, regex, choice, grammar, json_object or structural_tag"
            raise refusal(field, f"{name[:64]!r} is nothing that is known here; send {known}")


def _parsed(field: str, schema: Any) -> dict[str, Any] | bool:
    """An object, which may come as JSON in a string."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise refusal(field, "is no JSON") from None
    if not isinstance(schema, dict | bool):
        raise refusal(field, "must be a JSON schema: an object")
    return schema


def _tag(field: str, tag: Any) -> dict[str, Any]:
    """A structural tag by its format, which older ones have as `structures` and `triggers`."""
    if isinstance(tag, dict) and isinstance(tag.get("format"), dict):
        inner: dict[str, Any] = tag["format"]
        return inner
    structures = tag.get("structures") if isinstance(tag, dict) else None
    triggers = tag.get("triggers") if isinstance(tag, dict) else None
    if not isinstance(structures, list) or not isinstance(triggers, list):
        raise refusal(field, 'a structural tag must have a "format", or structures and triggers')
    if not all(isinstance(each, dict) and "begin" in each and "end" in each for each in structures):
        raise refusal(field, "each of its structures must have a begin, a schema and an end")
    tags = [
        {
            "type": "tag",
            "begin": each["begin"],
            "content": {"type": "json_schema", "json_schema": each.get("schema", {})},
            "end": each["end"],
        }
        for each in structures
    ]
    return {"type": "triggered_tags", "triggers": triggers, "tags": tags}
