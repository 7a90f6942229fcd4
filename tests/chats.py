"""Chat templates as families of models have them, short enough for tiny windows."""

_TURNS = """
{%- for message in messages %}
{{- '<' + message.role + '>' }}
{%- if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}
{%- endfor %}
{{- eos_token }}
{%- endfor %}"""

PLAIN = _TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"

HERMES = "{% if tools %}{{ tools | tojson }} answer <tool_call>...</tool_call>{% endif %}" + PLAIN

THINKING = (
    HERMES
    + """
{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking %}
{{- '<think></think>' }}
{%- elif add_generation_prompt and enable_thinking is defined %}
{{- '<think>' }}
{%- endif %}"""
)

REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    + PLAIN
)
