"""Calls of tools as a model is to write them, for whoever forces it to: a format for each style.

A format is a part of a structural tag, as xgrammar and vLLM have it. What it lets a model write is
what `calls.py` reads.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from server.message.tags import Schemas, choices_of, is_text

Format = dict[str, Any]
Mark = Callable[[str], Format]
"""The format of a mark, which may be a token of its own."""

MOST_CALLS = 16
"""Of one reply: the model ends it after any of them."""


def calls_format(
    style: str, tools: Schemas, mark: Mark, is_parallel: bool, has_arguments_mark: bool
) -> Format:
    """One call of these tools, or several where they may stand side by side.

    `has_arguments_mark` is whether Mistral's template has one between a name and its arguments.
    """
    opening = (
        "[TOOL_CALLS]" if style == "mistral" and not has_arguments_mark else _LISTED.get(style)
    )
    if opening is not None:
        calls = [_object(name, schema, "arguments") for name, schema in tools.items()]
        listed = _repeated(_either(calls), constant(", "), is_parallel)
        return sequence(mark(opening), constant("["), listed, constant("]"))
    write = _WRITERS[style]
    call = _either([write(name, schema, mark) for name, schema in tools.items()])
    if style == "deepseek":
        some = _repeated(call, constant(""), is_parallel)
        return sequence(mark("<｜tool▁calls▁begin｜>"), some, mark("<｜tool▁calls▁end｜>"))
    between = constant("" if style == "mistral" else "\n")
    # Of the others each is read as the whole reply.
    return _repeated(call, between, is_parallel and style in ("hermes", "qwen3coder", "mistral"))


def constant(text: str) -> Format:
    """This text."""
    return {"type": "const_string", "value": text}


def sequence(*parts: Format) -> Format:
    """One part after the other, without those that are no text."""
    return {"type": "sequence", "elements": [part for part in parts if part != constant("")]}


def _hermes(name: str, schema: Mapping[str, Any], mark: Mark) -> Format:
    call = _object(name, schema, "arguments")
    return sequence(mark("<tool_call>"), constant("\n"), call, constant("\n"), mark("</tool_call>"))


def _qwen3coder(name: str, schema: Mapping[str, Any], mark: Mark) -> Format:
    return sequence(
        mark("<tool_call>"),
        constant(f"\n<function={name}>\n"),
        *_parameters(schema),
        constant("</function>\n"),
        mark("</tool_call>"),
    )


def _parameters(schema: Mapping[str, Any]) -> Iterator[Format]:
    """The values of a call in tags, in the order of the schema: texts as they are, others as JSON.

    What a reference in them names is the schema's own.
    """
    known = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    required, properties = schema.get("required"), schema.get("properties")
    needed = required if isinstance(required, list) else ()
    for name, value in properties.items() if isinstance(properties, Mapping) else ():
        end = "\n</parameter>\n"
        if isinstance(value, Mapping) and is_text(value):
            content = sequence(_plain(value), constant(end))
        else:
            inner = {**value, **known} if isinstance(value, Mapping) else value
            content = sequence({"type": "json_schema", "json_schema": inner}, constant(end))
        parameter = sequence(constant(f"<parameter={name}>\n"), content)
        yield parameter if name in needed else {"type": "optional", "content": parameter}


def _plain(schema: Mapping[str, Any]) -> Format:
    """A text that stands for itself; up to a tag, if nothing else says what it may be."""
    if known := choices_of(schema):
        return _either([constant(text) for text in known])
    if "pattern" in schema:
        return {"type": "regex", "pattern": schema["pattern"]}
    any_text = {"type": "any_text", "excludes": ["</parameter>"]}
    return {**any_text, "max_chars": schema["maxLength"]} if "maxLength" in schema else any_text


def _mistral(name: str, schema: Mapping[str, Any], mark: Mark) -> Format:
    return sequence(mark("[TOOL_CALLS]"), constant(name), mark("[ARGS]"), _arguments(schema))


def _deepseek(name: str, schema: Mapping[str, Any], mark: Mark) -> Format:
    """As DeepSeek-V3.1 has it, the shorter of two forms that are read."""
    begin, between = mark("<｜tool▁call▁begin｜>"), mark("<｜tool▁sep｜>")
    end = mark("<｜tool▁call▁end｜>")
    return sequence(begin, constant(name), between, _arguments(schema), end)


def _llama3(name: str, schema: Mapping[str, Any], mark: Mark) -> Format:
    return _object(name, schema, "parameters")


def _fenced(name: str, schema: Mapping[str, Any], mark: Mark) -> Format:
    call = _object(name, schema, "arguments")
    return sequence(constant("```json\n"), call, constant("\n```"))


_LISTED: Mapping[str, str] = {"granite": "<|tool_call|>"}
"""Styles in which calls are a list behind an opening."""
_WRITERS: Mapping[str, Callable[[str, Mapping[str, Any], Mark], Format]] = {
    "hermes": _hermes,
    "qwen3coder": _qwen3coder,
    "mistral": _mistral,
    "deepseek": _deepseek,
    "llama3": _llama3,
    "fenced": _fenced,
}


def _object(name: str, schema: Mapping[str, Any], key: str) -> Format:
    begin = f'{{"name": {json.dumps(name)}, "{key}": '
    return sequence(constant(begin), _arguments(schema), constant("}"))


def _arguments(schema: Mapping[str, Any]) -> Format:
    return {"type": "json_schema", "json_schema": _of_object(schema)}


def _of_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool without parameters has none to be given."""
    return {**schema} if schema else {"type": "object", "properties": {}}


def _either(formats: list[Format]) -> Format:
    return formats[0] if len(formats) == 1 else {"type": "or", "elements": formats}


def _repeated(call: Format, between: Format, is_parallel: bool) -> Format:
    if not is_parallel:
        return call
    more = {"type": "repeat", "min": 0, "max": MOST_CALLS - 1, "content": sequence(between, call)}
    return sequence(call, more)
