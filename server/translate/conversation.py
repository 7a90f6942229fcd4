"""From a chat's body to the prompt that its template writes, and to how its reply is read."""

import json
from dataclasses import dataclass, fields, replace
from typing import Any

from engine import Constraint
from server.errors import BadRequestError
from server.message import (
    STYLES,
    Format,
    ReplyReader,
    Thinking,
    calls_format,
    detect_style,
    detect_thinking,
)
from server.plan import Plan
from server.protocol import ChatRequest, is_encodable
from server.text import ChatTemplate, Tokenizer
from server.translate.constraints import (
    after_reasoning,
    constraint_of,
    format_of,
    mark_of,
    tagged,
)
from server.translate.requests import Planner

_ANSWER = "An answer."
_PROBE = ({"role": "user", "content": "A question."}, {"role": "assistant", "content": _ANSWER})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPlan(Plan):
    """A plan, and how the replies are to be read."""

    reader: ReplyReader


def plan_chat(body: ChatRequest, request_id: str, planner: Planner) -> ChatPlan:
    """What a body asks for; raises as `Planner.plan` does."""
    most = planner.settings.max_logprobs
    if body.top_logprobs > most:
        raise BadRequestError(f"top_logprobs: at most {most} are given", param="top_logprobs")
    template = _template(body, planner)
    text = _written(body, template)
    reader = _reader(body, template, text, planner.settings.tool_parser)
    # A template writes its own special tokens.
    prompt = tuple(planner.encode(text, add_special_tokens=False))
    # A reply may be as long as the window leaves.
    num_tokens = -1 if body.max_tokens is None else body.max_tokens
    plan = planner.plan(
        body.model_copy(update={"max_tokens": num_tokens}),
        request_id,
        [prompt or tuple(planner.start())],
        body.top_logprobs if body.logprobs else None,
        ends=_turn_ends(template, planner.tokenizer),
        constraint=_constraint(body, template, text, reader, planner),
    )
    told = {each.name: getattr(plan, each.name) for each in fields(plan)}
    told["manner"] = replace(plan.manner, shown=reader.marks)
    return ChatPlan(**told, reader=reader)


def write_prompt(body: ChatRequest, planner: Planner) -> str:
    """The text that a body's conversation is to the model; raises BadRequestError."""
    return _written(body, _template(body, planner))


def _reader(
    body: ChatRequest, template: ChatTemplate, prompt: str, parser: str | None
) -> ReplyReader:
    """How to read what the model answers to this prompt; raises BadRequestError."""
    thinking = detect_thinking(template.mentions)
    return ReplyReader(
        thinking=thinking,
        is_thinking=thinking is not None and _is_thinking(body, prompt, thinking),
        style=STYLES[_parser(template, parser)] if body.has_tools else None,
        tools={tool.function.name: tool.function.parameters or {} for tool in body.tools},
        is_parallel=body.parallel_tool_calls,
    )


def _constraint(
    body: ChatRequest, template: ChatTemplate, prompt: str, reader: ReplyReader, planner: Planner
) -> Constraint | None:
    """The form of the reply: of what follows its reasoning, if it may have any.

    Where tools may be called beside another form, either is one.
    """
    wanted, thinking = body.wanted, reader.thinking
    if wanted is None and not body.is_calling:
        return None
    if wanted is not None and thinking is None and not body.has_tools:
        return constraint_of(wanted)
    forms = [] if wanted is None else [format_of(wanted)]
    if body.has_tools:
        forms.append(_calls(body, template, planner))
    form = forms[0] if len(forms) == 1 else {"type": "or", "elements": forms}
    if thinking is not None:
        form = after_reasoning(form, thinking, prompt, reader.is_thinking, planner.tokenizer)
    return tagged(form)


def _calls(body: ChatRequest, template: ChatTemplate, planner: Planner) -> Format:
    """Calls as this model writes them; one, of the tool that is named, if one is."""
    tools = {
        tool.function.name: tool.function.parameters or {}
        for tool in body.tools
        if body.forced_tool in (None, tool.function.name)
    }
    return calls_format(
        _parser(template, planner.settings.tool_parser),
        tools,
        lambda text: mark_of(planner.tokenizer, text),
        is_parallel=body.parallel_tool_calls and body.forced_tool is None,
        has_arguments_mark=template.mentions("[ARGS]"),
    )


def _written(body: ChatRequest, template: ChatTemplate) -> str:
    """The conversation in the template's words; raises BadRequestError."""
    text = _rendered(body, template)
    if not is_encodable(text):
        raise BadRequestError(
            "messages: they, the tools or the template's options hold half a surrogate pair, which "
            "is no text",
            param="messages",
        )
    return text


def _rendered(body: ChatRequest, template: ChatTemplate) -> str:
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    try:
        return _write(body, template, messages)
    except BadRequestError as error:
        # Some templates write the arguments of calls as they stand, where others write JSON.
        if not isinstance(error.__cause__, TypeError):
            raise
        return _write(body, template, [_with_texts(message) for message in messages])


def _write(body: ChatRequest, template: ChatTemplate, messages: list[dict[str, Any]]) -> str:
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools] if body.has_tools else None
    said = [_as_told(message, template) for message in messages]
    if body.continue_final_message:
        return template.render_open(said, tools, body.template_options)
    return template.render(said, tools, body.template_options, body.add_generation_prompt)


def _as_told(message: dict[str, Any], template: ChatTemplate) -> dict[str, Any]:
    """A message as templates read it; what developers say is the system's to most of them."""
    if message["role"] == "developer" and not template.mentions("developer"):
        message = {**message, "role": "system"}
    return {"content": None, **message}


def _with_texts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls, if it has any, have the JSON text of their arguments."""
    if "tool_calls" not in message:
        return message
    calls = [call | {"function": _as_text(call["function"])} for call in message["tool_calls"]]
    return {**message, "tool_calls": calls}


def _as_text(function: dict[str, Any]) -> dict[str, Any]:
    given = function["arguments"]
    is_text = isinstance(given, str)
    return {**function, "arguments": given if is_text else json.dumps(given, ensure_ascii=False)}


def _is_thinking(body: ChatRequest, prompt: str, marks: Thinking) -> bool:
    """Whether the reply begins amid reasoning: so the prompt ends, or the message it goes on."""
    if not body.continue_final_message:
        return prompt.rstrip().endswith(marks.opening)
    said = body.messages[-1].content or ""
    return said.rfind(marks.opening) > said.rfind(marks.closing)


def _template(body: ChatRequest, planner: Planner) -> ChatTemplate:
    """The model's template, or that of this server; raises BadRequestError for one that is none."""
    override = planner.settings.chat_template
    template = planner.tokenizer.templates.choose(body.has_tools, override)
    if template is None:
        raise BadRequestError(
            f"The model {planner.settings.model_id!r} has no chat template, as base models have "
            "none: send a prompt to /v1/completions, or start the server with --chat-template FILE."
        )
    if body.has_tools and not template.mentions("tools"):
        raise BadRequestError(
            "tools: the model's chat template has no place for them: leave them out, send "
            "tool_choice 'none', or start the server with a --chat-template that has one",
            param="tools",
        )
    return template


def _parser(template: ChatTemplate, override: str | None) -> str:
    found = override or detect_style(template.mentions)
    if found is None:
        raise BadRequestError(
            "tools: the chat template does not tell how this model writes calls: start the server "
            f"with --tool-parser and one of {', '.join(STYLES)}",
            param="tools",
        )
    return found


def _turn_ends(template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """The special token with which the template ends the assistant's turn, if it does so.

    A model's own configuration need not name it among those that end a text.
    """
    try:
        text = template.render(_PROBE, add_generation_prompt=False)
    except BadRequestError:
        return []
    _, _, rest = text.rpartition(_ANSWER)
    ends = [(len(name), at) for at, name in tokenizer.specials.items() if _begins(rest, name)]
    return [max(ends)[1]] if ends else []


def _begins(text: str, name: str) -> bool:
    return text.lstrip().startswith(name)
