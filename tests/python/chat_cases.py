#!/usr/bin/env python3
"""Writes crates/rlhf-policy/tests/data/chat.json: conversations as transformers renders them.

The templates are ours, written so that each uses what a family of real templates uses. A case holds a
template, what it is given, and the text or the refusal that transformers gives, with the parts that
lie in generation blocks.

    python chat_cases.py            # needs transformers and jinja2
"""

import datetime
import json
import sys
from pathlib import Path

import jinja2
import transformers
from transformers.utils import chat_template_utils

OUT = Path(__file__).parents[2] / "crates/rlhf-policy/tests/data/chat.json"
NOW = datetime.datetime(2024, 7, 4, 15, 6, 7, tzinfo=datetime.timezone.utc)


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW.replace(tzinfo=None)


chat_template_utils.datetime = Frozen

SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": "Hi  there "}]
TALK = USER + [{"role": "assistant", "content": " Hello.\n"}, {"role": "user", "content": "2 + 2?"}]
FULL = TALK + [{"role": "assistant", "content": "4"}]
SYSTEM = [{"role": "system", "content": " Be brief. "}]

TEMPLATES = {
    "chatml": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    # Blocks trimmed, the end token, a text over several lines.
    "zephyr": """{% for message in messages %}
    {% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
    {% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
    {% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
    {% endif %}
    {% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
    {% endif %}
{% endfor %}
""",
    # Roles must alternate; the system's words go before the first user's.
    "mistral": """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate user/assistant/user/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, not ' ~ message['role'] ~ '!') }}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    # Content as a text or a list of parts.
    "gemma3": """{{ bos_token }}
{%- set first_user_prefix = "" -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {{ '<start_of_turn>' + message['role'] + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
""",
    # The date, from the clock or the template's own.
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{#- The system's words, if any. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if not tools is none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "qwen2": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    # Thoughts of earlier turns are left out; an empty thought where thinking is off.
    "qwen3": """{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "generation": """{%- for message in messages -%}
  {{ '<|im_start|>' + message.role + '\\n' }}
  {%- if message.role == 'assistant' -%}
    {%- generation -%}
      {%- set inner = message.content + '<|im_end|>' -%}
      {{ inner }}
    {%- endgeneration -%}
    {{ '\\n' if inner is not defined else '!' }}
  {%- else -%}
    {{ message.content + '<|im_end|>\\n' }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}""",
    # The tags without whitespace control: newlines behind and spaces before them go.
    "generation_plain": """{% for message in messages %}
{{ message.role }}:
    {% if message.role == 'assistant' %}
    {%   generation   %}
 {{ message.content }} é
    {%endgeneration%}
    {% else %}
 {{ message.content }}
    {% endif %}
{% endfor %}""",
    "macros": """{% macro say(role, text='-', upper=false) %}[{{ role }}|{{ text.upper() if upper else text }}]{% endmacro %}
{% for message in messages if message.role != 'system' %}
{% if message.content == 'skip' %}{% continue %}{% endif %}
{{ say(message.role.title(), message.content, upper=loop.last) ~ loop.index ~ '/' ~ loop.length }}
{% if loop.index == 3 %}{% break %}{% endif %}
{% else %}
nobody
{% endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}
{{ messages | map(attribute='role') | unique | list | length }} {{ '%s' | format('x') }} {{ say('end') }}
{% raw %}{{ raw }}{% generation %}{% endraw %} {# gone #} {{ "a-b".replace('-', '+') }} {{ 'a,b'.split(',') | last }}""",
    "printing": """{{ true }} {{ none }} {{ 1.0 }} {{ 10 / 4 }} {{ 7 // 2 }} {{ [1, 'a', "it's", none] }} {{ {'k': [true]} }} {{ missing }}|{{ 3 | string ~ 'x' }}
{%- for key, value in data.items() %} {{ key }}={{ value | tojson }}{% endfor %}
{{ data | tojson(indent=2) }}
{{ data | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}
{{ '<a & "b">' | tojson }} {{ data is mapping }} {{ 'ab' is sequence }} {{ messages is iterable }} {{ data.get('no', 'default') }}""",
    "strict_date": """{{ strftime_now('%Y-%m-%d %H:%M') }} {{ messages[-1].content[2:5] }}""",
}


def case(name, template, messages, ending="complete", **extra):
    return dict(name=name, template=template, messages=messages, ending=ending, extra=extra)


CASES = [
    case("no system", "chatml", TALK, "prompt"),
    case("system", "chatml", SYSTEM + FULL),
    case("continued", "chatml", TALK + [{"role": "assistant", "content": "The answer "}], "continue"),
    case("whole", "zephyr", SYSTEM + FULL),
    case("prompt", "zephyr", TALK, "prompt"),
    case("whole", "mistral", SYSTEM + FULL),
    case("two users", "mistral", USER + USER),
    case("unknown role", "mistral", [USER[0], {"role": "tool", "content": "x"}]),
    case("prompt", "gemma", TALK, "prompt"),
    case("system", "gemma", SYSTEM + USER),
    case("continued", "gemma", USER + [{"role": "assistant", "content": "The answer "}], "continue"),
    case("texts", "gemma3", SYSTEM + FULL),
    case("parts", "gemma3", [{"role": "system", "content": [{"type": "text", "text": "S"}]}, {"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]}]),
    case("clock", "llama3", SYSTEM + TALK, "prompt"),
    case("given date", "llama3", TALK, "prompt", date_string="1 May 2025"),
    case("default", "qwen2", TALK, "prompt"),
    case("later system", "qwen2", SYSTEM + USER + SYSTEM),
    case("thought", "qwen3", USER + [{"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello."}, USER[0], {"role": "assistant", "content": "<think>\nwell\n</think>\n\nYes."}]),
    case("no thought", "qwen3", FULL),
    case("reasoning", "qwen3", USER + [{"role": "assistant", "content": "A", "reasoning_content": "\nB\n"}]),
    case("thinking off", "qwen3", TALK, "prompt", enable_thinking=False),
    case("marked", "generation", SYSTEM + FULL),
    case("marked prompt", "generation", TALK, "prompt"),
    case("marked", "generation_plain", FULL),
    case("four", "macros", SYSTEM + FULL),
    case("skipped", "macros", [{"role": "user", "content": "skip"}, {"role": "assistant", "content": "x"}]),
    case("nobody", "macros", SYSTEM),
    case("values", "printing", USER, data={"a": {"é": "\u2028<"}, "b": [1, 2.5, None], "e": []}),
    case("clock", "strict_date", USER),
]


def render(case):
    try:
        texts, indices = chat_template_utils.render_jinja_template(
            conversations=[case["messages"]],
            chat_template=TEMPLATES[case["template"]],
            add_generation_prompt=case["ending"] == "prompt",
            continue_final_message=case["ending"] == "continue",
            return_assistant_tokens_mask=case["template"].startswith("generation"),
            **SPECIALS,
            **case["extra"],
        )
    except jinja2.exceptions.TemplateError as e:
        return {"refusal": str(e)}
    text = texts[0]
    spans = indices[0] if indices else []
    return {"text": text, "assistant": [text[a:b] for a, b in spans]}


def main():
    cases = [{**one, **render(one)} for one in CASES]
    out = {
        "source": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}; tests/python/chat_cases.py",
        "now": int(NOW.timestamp()),
        "specials": SPECIALS,
        "templates": TEMPLATES,
        "cases": cases,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(cases)} cases in {OUT}", file=sys.stderr)


if __name__ == "__main__":
    main()
