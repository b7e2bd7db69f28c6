"""Styles of tool calls, and templates in the manner of models that have them."""

from __future__ import annotations

from ov_kvcrush.serve.tools.style import ToolStyle

QWEN_LIKE = ToolStyle(
    begin="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    before="\n",
)
LLAMA_LIKE = ToolStyle(key="parameters")

QWEN_LIKE_TEMPLATE = """\
{%- if tools %}<|system|>Tools:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|eos|>{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|user|><tool_response>
{{ m.content }}
</tool_response>
{%- else %}<|{{ m.role }}|>
{%- if m.content %}{{ '\\n' + m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}
{%- endfor %}
{%- if m.role == 'assistant' %}<|eos|>{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}"""

LLAMA_LIKE_TEMPLATE = """\
{%- if tools %}<|system|>Answer a call as {"name": ..., "parameters": ...}.
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|eos|>{% endif %}
{%- for m in messages %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('One call at a time.') }}{% endif %}
{%- set call = m.tool_calls[0].function %}<|assistant|>
{{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eos|>' }}
{%- elif m.role == 'tool' %}<|user|>{{ m.content | tojson }}
{%- else %}<|{{ m.role }}|>{{ m.content }}
{%- if m.role == 'assistant' %}<|eos|>{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

UNKNOWN_TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}
{%- for call in m.tool_calls or [] %}<call>{{ call.function.name }}:
{{- call.function.arguments | tojson }}{% endfor %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
