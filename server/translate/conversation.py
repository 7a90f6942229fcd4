"""From a chat's body to the prompt that its template writes, and to how its reply is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.errors import BadRequestError
from server.message import STYLES, ReplyReader, Thinking, detect_style, detect_thinking
from server.plan import Plan
from server.protocol import ChatRequest, Message
from server.text import ChatTemplate, Tokenizer
from server.translate.requests import Planner

_ANSWER = "An answer."
_PROBE = ({"role": "user", "content": "A question."}, {"role": "assistant", "content": _ANSWER})


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat as the model reads it, and how its answer is to be read."""

    prompt: str
    reader: ReplyReader


def plan_chat(body: ChatRequest, request_id: str, planner: Planner) -> tuple[Plan, ReplyReader]:
    """What a body asks for, and how to read the replies; raises as `Planner.plan` does."""
    most = planner.settings.max_logprobs
    if body.top_logprobs > most:
        raise BadRequestError(f"top_logprobs: at most {most} are given", param="top_logprobs")
    template = _template(body, planner)
    chat = converse(body, template, planner.settings.tool_parser)
    # A template writes its own special tokens.
    prompt = tuple(planner.tokenizer.encode(chat.prompt, add_special_tokens=False))
    room = max(1, planner.info.max_model_len - len(prompt))
    ends = [] if body.ignore_eos else _turn_ends(template, planner.tokenizer)
    fitted = body.model_copy(
        update={
            "max_tokens": min(body.max_completion_tokens or body.max_tokens or room, room),
            "stop_token_ids": [*body.stop_token_ids, *ends],
        }
    )
    num_logprobs = body.top_logprobs if body.logprobs else None
    plan = planner.plan(fitted, request_id, [prompt or tuple(planner.start())], num_logprobs)
    return replace(plan, shown=chat.reader.marks), chat.reader


def converse(body: ChatRequest, template: ChatTemplate, parser: str | None) -> Conversation:
    """The conversation in the template's words; raises BadRequestError."""
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools] if body.has_tools else None
    messages = [_message(each, template) for each in body.messages]
    options = body.template_options
    if body.continue_final_message:
        prompt = template.render_open(messages, tools, options)
    else:
        prompt = template.render(messages, tools, options, body.add_generation_prompt)
    thinking = detect_thinking(template.mentions)
    reader = ReplyReader(
        thinking=thinking,
        is_thinking=thinking is not None and _is_thinking(body, prompt, thinking),
        style=STYLES[_parser(template, parser)] if body.has_tools else None,
        tools=frozenset(tool.function.name for tool in body.tools),
        is_parallel=body.parallel_tool_calls,
    )
    return Conversation(prompt, reader)


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


def _message(message: Message, template: ChatTemplate) -> Mapping[str, Any]:
    """A message as templates read it; what developers say is the system's to most of them."""
    told = message.model_dump(exclude_none=True)
    if message.role == "developer" and not template.mentions("developer"):
        told["role"] = "system"
    return {"content": None, **told}


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
