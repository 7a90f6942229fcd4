"""The items and tools of a body for Responses, as a chat has them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.protocol import ChatRequest, Tool
from server.protocol.chat import NamedFunction, ToolChoice
from server.protocol.responses import ResponsesRequest
from server.protocol.responses_items import (
    CustomTool,
    FunctionTool,
    HostedTool,
    Item,
    NamespaceTool,
    SaidCustomCall,
    SaidFunctionCall,
    SaidMessage,
    SaidReasoning,
)
from server.translate.agents import call_of, chat_of, joined, tool_of

INPUT = "input"
"""The one argument of a tool that takes any text, as the model is told of it."""


@dataclass(frozen=True, slots=True)
class NamedTool:
    """A tool as the client knows it, and as the model does."""

    namespace: str | None
    name: str
    is_custom: bool
    tool: Tool


def named_tools(body: ResponsesRequest) -> dict[str, NamedTool]:
    """The tools that the model is told of, by the names that it knows."""
    told: dict[str, NamedTool] = {}
    for tool in body.tools:
        if isinstance(tool, HostedTool):
            continue
        namespace = tool.name if isinstance(tool, NamespaceTool) else None
        for each in tool.tools if isinstance(tool, NamespaceTool) else [tool]:
            name = _told_name(namespace, each.name)
            is_custom = isinstance(each, CustomTool)
            told[name] = NamedTool(namespace, each.name, is_custom, _tool(name, each))
    return told


def chat_of_response(body: ResponsesRequest) -> ChatRequest:
    """The chat that a body is."""
    effort = body.reasoning.effort if body.reasoning else None
    options: dict[str, Any] = {}
    if body.text is not None and body.text.verbosity is not None:
        options["verbosity"] = body.text.verbosity
    tools = named_tools(body)
    return chat_of(
        body,
        joined(_messages(body)),
        [named.tool for named in tools.values()],
        tool_choice=_choice(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=effort,
        enable_thinking=False if effort == "none" else None,
        chat_template_kwargs=options,
    )


def _choice(choice: ToolChoice, tools: Mapping[str, NamedTool]) -> ToolChoice:
    """A choice by the name that the model knows; a tool's own is enough where only one has it."""
    if isinstance(choice, str) or choice.function.name in tools:
        return choice
    known = [told for told, tool in tools.items() if tool.name == choice.function.name]
    if len(known) != 1:
        return choice
    return choice.model_copy(update={"function": NamedFunction(name=known[0])})


def _messages(body: ResponsesRequest) -> Iterator[Mapping[str, Any]]:
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    for item in body.input:
        yield _message(item)


def _message(item: Item) -> Mapping[str, Any]:
    if isinstance(item, SaidMessage):
        return {"role": item.role, "content": item.content}
    if isinstance(item, SaidReasoning):
        text = item.summary if item.content is None else item.content
        return {"role": "assistant", "reasoning_content": text}
    if isinstance(item, SaidFunctionCall):
        name = _told_name(item.namespace, item.name)
        return call_of(item.call_id, name, item.arguments)
    if isinstance(item, SaidCustomCall):
        return call_of(item.call_id, _told_name(item.namespace, item.name), {INPUT: item.input})
    return {"role": "tool", "tool_call_id": item.call_id, "content": item.output}


def _told_name(namespace: str | None, name: str) -> str:
    return name if namespace is None else f"{namespace}.{name}"


def _tool(name: str, tool: FunctionTool | CustomTool) -> Tool:
    if isinstance(tool, FunctionTool):
        return tool_of(name, tool.description, tool.parameters)
    # The format is told to the model; grammars would hold it to that, here.
    form = f"Its format: {json.dumps(tool.format, ensure_ascii=False)}" if tool.format else ""
    about = "\n\n".join(part for part in (tool.description, form) if part)
    schema = {
        "type": "object",
        "properties": {INPUT: {"type": "string"}},
        "required": [INPUT],
    }
    return tool_of(name, about or None, schema)
