"""Chat templates, good and bad: which of the two renders, and what a user reads of a bad one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import openvino_genai as genai
import pytest

from ov_kvcrush import AsyncLLMPipeline, LLMPipeline
from ov_kvcrush.errors import ConfigError, ModelError, OVKVCrushError, PromptError
from ov_kvcrush.pipeline.chat_template import ChatTemplate
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from tests.support.answers import decoded
from tests.support.model_factory import retemplated
from tests.support.pipelines import TEXT

HELLO = [{"role": "user", "content": "Hello"}]
TURNS = [*HELLO, {"role": "assistant", "content": " Hi <b>"}, {"role": "user", "content": "Well?"}]
# openvino_genai's has no such filter.
ONLY_JINJA = "{% for m in messages %}{{ m.role | center(8) }}{{ m.content }};{% endfor %}"
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must\n alternate.') }}{% endif %}{{ m.content }}{% endfor %}"
)


@pytest.fixture
def tokenizer(needle_int8_dir: Path) -> genai.Tokenizer:
    return genai.Tokenizer(needle_int8_dir)


def templated(tokenizer: genai.Tokenizer, source: str) -> ChatTemplate:
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer)


@pytest.fixture
def base(needle_int8_dir: Path, tmp_path: Path) -> LLMPipeline:
    """A model without a chat template."""
    return LLMPipeline(retemplated(tmp_path, needle_int8_dir, None))


# ------------------------------------------------------------------ who renders


@pytest.mark.parametrize("divided", ["1 / 0", "1 // (messages | length - 1)", "7 % none_of_it"])
def test_a_division_by_zero_is_told_and_ends_no_process(
    tokenizer: genai.Tokenizer, divided: str
) -> None:
    template = templated(tokenizer, f"{{{{ {divided} }}}}")
    with pytest.raises(ModelError, match="does not render this conversation"):
        template.render(HELLO)


def test_what_openvino_genai_renders_is_what_it_renders(tokenizer: genai.Tokenizer) -> None:
    wanted = tokenizer.apply_chat_template(genai.ChatHistory(TURNS), add_generation_prompt=True)
    assert ChatTemplate(tokenizer).render(TURNS) == wanted


def test_what_only_jinja_renders_is_rendered(
    tokenizer: genai.Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    template = templated(tokenizer, ONLY_JINJA)
    before = template.render(HELLO)
    assert before == "  user  Hello;"
    assert template.render(TURNS).startswith(before)
    assert capfd.readouterr().err == ""


def test_a_template_that_fails_openvino_genai_later_is_left_to_jinja(
    tokenizer: genai.Tokenizer,
) -> None:
    template = templated(
        tokenizer, "{% if x %}{{ x | center(3) }}{% endif %}{{ messages | length }}"
    )
    assert template.render(HELLO) == "1"
    assert template.render(HELLO, extra_context={"x": "a"}) == " a 1"
    assert template.render(TURNS) == "3"


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("{{ messages[0].content | tojson }}", '"<é>"'),
        ("{{ {'a': 1} | tojson(indent=1) }}", '{\n "a": 1\n}'),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
        ("{% for n in [1, 2, 3] %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "1"),
        ("{% for n in [1, 2] %}{% if n == 1 %}{% continue %}{% endif %}{{ n }}{% endfor %}", "2"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("a\n  {% if true %}\n  x\n  {% endif %}\n", "a\n  x\n"),
        ("{{ bos_token }}{{ eos_token }}", "<|bos|><|eos|>"),
        ("{{ tools is none }}{{ add_generation_prompt }}{{ thinking }}", "TrueTrueFalse"),
    ],
)
def test_jinja_templates_get_what_transformers_gives_them(
    tokenizer: genai.Tokenizer, source: str, wanted: str
) -> None:
    template = templated(tokenizer, "{{ 'x' | center(1) | replace('x', '') }}" + source)
    messages = [{"role": "user", "content": "<é>"}]
    assert template.render(messages, extra_context={"thinking": False}) == wanted


def test_tools_and_extra_context_reach_the_template(tokenizer: genai.Tokenizer) -> None:
    tokenizer.chat_template = "{{ tools[0].function.name }} {{ level }} {{ messages[0].content }}"
    history = genai.ChatHistory(HELLO)
    history.set_tools([{"type": "function", "function": {"name": "add"}}])
    history.set_extra_context({"level": "high"})
    assert PromptEncoder(tokenizer).render(history).text == "add high Hello"


def test_tools_that_a_jinja_template_does_not_know_are_refused(tokenizer: genai.Tokenizer) -> None:
    with pytest.raises(PromptError, match="does not know tools"):
        templated(tokenizer, ONLY_JINJA).render(HELLO, [{"type": "function"}])


@pytest.mark.parametrize(
    ("spelling", "wanted"),
    [
        # With tojson alone, JSON that is text already would be a text in quotes.
        ("{{ c.arguments | tojson }}", '{"x": 1, "y": "é<"}'),
        ("{{ c.arguments }}", ' {"x":1, "y": "é<"}'),
        (
            "{{ c.arguments if c.arguments is string else c.arguments | tojson }}",
            ' {"x":1, "y": "é<"}',
        ),
        ("{% for k, v in c.arguments.items() %}{{ k }}={{ v }};{% endfor %}", "x=1;y=é<;"),
    ],
)
def test_a_jinja_template_gets_arguments_as_it_takes_them(
    tokenizer: genai.Tokenizer, spelling: str, wanted: str
) -> None:
    source = (
        "{% for m in messages %}{% for t in m.tool_calls or [] %}{% set c = t.function %}"
        f"{spelling}{{% endfor %}}{{% endfor %}}{{{{ '' | center(0) }}}}"
    )
    template = templated(tokenizer, source)
    call = {"type": "function", "function": {"name": "f", "arguments": ' {"x":1, "y": "é<"}'}}
    messages: list[dict[str, Any]] = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    assert template.render(messages) == wanted
    assert call["function"] == {"name": "f", "arguments": ' {"x":1, "y": "é<"}'}


def test_arguments_that_are_not_an_object_reach_a_jinja_template_as_they_are(
    tokenizer: genai.Tokenizer,
) -> None:
    template = templated(
        tokenizer,
        "{% for m in messages %}{% for t in m.tool_calls or [] %}"
        "{{ t.function.arguments | tojson }}{% endfor %}{% endfor %}{{ '' | center(0) }}",
    )
    call = {"type": "function", "function": {"name": "f", "arguments": "{x: 1"}}
    messages: list[dict[str, Any]] = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    assert template.render(messages) == '"{x: 1"'


def test_a_template_given_later_is_used(tokenizer: genai.Tokenizer) -> None:
    encoder = PromptEncoder(tokenizer)
    assert encoder.render(HELLO).text == "<|bos|><|user|>Hello<|assistant|>"
    tokenizer.chat_template = "{{ messages[0].content }}!"
    assert encoder.render(HELLO).text == "Hello!"
    tokenizer.chat_template = ""
    assert not encoder.has_template


# ------------------------------------------------------------------ what is at fault


def test_a_template_says_itself_what_it_refuses(tokenizer: genai.Tokenizer) -> None:
    with pytest.raises(PromptError) as caught:
        templated(tokenizer, STRICT).render(HELLO * 2)
    assert caught.value.message.endswith("take this conversation: Roles must alternate.")


def test_what_openvino_genai_makes_of_a_conversation_is_refused_for_its_own_reason(
    tokenizer: genai.Tokenizer,
) -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    template, system = templated(tokenizer, source + STRICT), {"role": "system", "content": "A."}
    assert template.render([system, *HELLO]).startswith("A.")
    with pytest.raises(PromptError, match=r"Roles must alternate\.$"):
        template.render([system, *HELLO, *HELLO])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}\n{{ m.content ", "cannot be read: unexpected end of template"),
        ("{% if %}x{% endif %}", "cannot be read: Expected an expression"),
        ("{{ messages[0].content.nothing() }}", "has no attribute 'nothing'"),
        ("{{ messages[0].__class__.__mro__ | center(3) }}", "is unsafe"),
    ],
)
def test_a_broken_template_is_told_in_a_line(
    tokenizer: genai.Tokenizer, source: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        templated(tokenizer, source).render(HELLO)
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert capfd.readouterr().err == ""


def test_a_model_with_a_broken_template_still_continues_texts(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    pipe = LLMPipeline(retemplated(tmp_path, needle_int8_dir, "{{ oh"))
    for call in (pipe.check_chat_template, lambda: pipe.chat().ask("Hello")):
        with pytest.raises(ModelError, match="cannot be read"):
            call()
    assert pipe.generate(TEXT, max_new_tokens=2, apply_chat_template=False)


def test_a_model_without_a_template_continues_texts_and_holds_no_conversation(
    base: LLMPipeline,
) -> None:
    assert not base.has_chat_template
    wanted = base.generate(TEXT, max_new_tokens=4, apply_chat_template=False)
    assert base.generate(TEXT, max_new_tokens=4) == wanted
    with base.cache_prefix("Below is a text.") as prefix:
        assert base.generate(TEXT[16:], prefix=prefix, max_new_tokens=4) == wanted
    base.start_chat()
    server = AsyncLLMPipeline(base)
    for ask in (
        lambda: base.generate("Hello"),
        lambda: base.chat("Be brief.").ask("Hello"),
        lambda: base.generate(genai.ChatHistory(HELLO)),
        lambda: server.generate(genai.ChatHistory(HELLO)),
        lambda: base.cache_prefix("text", "Be brief."),
        base.check_chat_template,
    ):
        with pytest.raises(ModelError, match="has no chat template"):
            ask()
    server.close()


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], PromptError),
        ([{"role": "user", "content": None}], PromptError),
        ([{"role": "wizard", "content": "Hello"}], PromptError),
        ([3], PromptError),
    ],
)
def test_a_history_that_cannot_be_read_is_refused_by_both_pipelines(
    base: LLMPipeline, messages: list[Any], error: type[OVKVCrushError]
) -> None:
    base.get_tokenizer().chat_template = "{{ messages }}"
    history = genai.ChatHistory(messages)
    server = AsyncLLMPipeline(base)
    for generate in (base.generate, server.generate):
        with pytest.raises(error):
            generate(history)
    server.close()


def test_half_characters_never_reach_the_tokenizer(base: LLMPipeline) -> None:
    half = "half \ud800"
    base.get_tokenizer().chat_template = "{{ messages }}"
    for say in (
        lambda: base.generate(half),
        lambda: base.generate([TEXT, half]),
        lambda: base.chat().ask(half),
        lambda: base.chat(half).ask("Hello"),
        lambda: base.cache_prefix(half),
        lambda: base.cache_prefix("text", half),
        lambda: base.generate("Hello", apply_chat_template=False, stop_strings=[half]),
    ):
        with pytest.raises((PromptError, ConfigError)) as caught:
            say()
        assert "\n" not in caught.value.message


def test_a_history_cannot_be_read_without_the_template(base: LLMPipeline) -> None:
    base.get_tokenizer().chat_template = "{{ messages[0].content }}"
    history = genai.ChatHistory(HELLO)
    with pytest.raises(ConfigError, match="apply_chat_template is off"):
        base.generate(history, apply_chat_template=False)
    assert decoded(base.generate(history, max_new_tokens=1)).texts
