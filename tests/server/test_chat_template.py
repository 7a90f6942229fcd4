"""Templates are rendered as transformers renders them, and say themselves what they refuse."""

from datetime import datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from engine import ConfigError
from server.errors import BadRequestError
from server.text import ChatTemplate, ChatTemplates, check_template
from tests.chats import HERMES, PLAIN, REFUSING, THINKING
from tests.server.fakes import byte_level_tokenizer

SPECIALS = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
LIKE_LLAMA = """{{ bos_token }}{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if loop.first and message['role'] == 'system' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
{{ '[' ~ ns.count ~ '] ' + message['content'] | trim + eos_token }}
    {% if message.role == 'assistant' %}{% generation %}<{{ message.role }}>{% endgeneration %}
    {% endif %}
{% endfor %}
{{ {'a': 'é <b>', 'c': messages | length} | tojson(indent=2) }}
{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}
{% if tools is not none %}{{ tools | tojson }}{% endif %}"""
TEMPLATES = [PLAIN, HERMES, THINKING, LIKE_LLAMA]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

contents = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
roles = st.sampled_from(["system", "user", "assistant"])
conversations = st.lists(st.fixed_dictionaries({"role": roles, "content": contents}), min_size=1)


@cache
def stock() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer().inner, **SPECIALS)


def rendered(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return str(stock().apply_chat_template(messages, chat_template=source, **options))


@given(
    source=st.sampled_from(TEMPLATES),
    messages=conversations,
    tools=st.sampled_from([None, [TOOL]]),
    opens=st.booleans(),
    options=st.sampled_from([{}, {"enable_thinking": True}, {"enable_thinking": False}]),
)
def test_a_conversation_is_written_as_transformers_writes_it(
    source: str, messages: Any, tools: Any, opens: bool, options: dict[str, Any]
) -> None:
    """Red when a name, a filter or a rule of white space of a template differs from theirs."""
    ours = ChatTemplate(source, SPECIALS).render(messages, tools, options, opens)
    expected = rendered(
        source, messages, tools=tools, add_generation_prompt=opens, tokenize=False, **options
    )
    assert ours == expected


@given(
    source=st.sampled_from([PLAIN, LIKE_LLAMA.replace("{% continue %}", "")]),
    messages=conversations,
    said=contents.filter(lambda text: bool(text.strip())),
)
def test_a_message_is_continued_where_transformers_continues_it(
    source: str, messages: Any, said: str
) -> None:
    """Red when an end of turn follows what is to be continued, or its white space is cut."""
    messages = [*messages, {"role": "assistant", "content": said}]
    ours = ChatTemplate(source, SPECIALS).render_open(messages)
    expected = rendered(source, messages, continue_final_message=True, tokenize=False)
    assert ours == expected


def test_a_template_that_refuses_a_conversation_is_quoted() -> None:
    """Red when its reason is lost, or it is taken for a failure of ours."""
    with pytest.raises(BadRequestError, match="no system here") as caught:
        ChatTemplate(REFUSING).render([{"role": "system", "content": "x"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages[0].nothing.more }}",
    ],
)
def test_a_template_reaches_nothing_but_the_conversation(source: str) -> None:
    """Red when templates, which come with weights, run outside the sandbox."""
    with pytest.raises(BadRequestError, match="the chat template cannot write them"):
        ChatTemplate(source).render([{"role": "user", "content": "x"}])


def test_the_year_is_this_one() -> None:
    template = ChatTemplate("{{ strftime_now('%Y') }}")
    assert template.render([]) == str(datetime.now().year)


def test_of_several_templates_the_one_for_tools_is_taken_where_there_are_some() -> None:
    """Red when `tool_use` is never looked at, or always."""
    several = ChatTemplates({"default": "a", "tool_use": "b"})
    chosen = [several.choose(has_tools) for has_tools in (False, True)]
    assert [each and each.source for each in chosen] == ["a", "b"]
    override = several.choose(True, "c")
    assert override is not None and override.source == "c"
    assert ChatTemplates({}).choose(False) is None


def test_a_file_that_is_no_template_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="--chat-template: it is no Jinja template"):
        check_template("{% if %}")
