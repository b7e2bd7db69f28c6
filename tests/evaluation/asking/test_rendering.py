"""Samples as tokens: where the first question begins, and what later turns add."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.evaluation.asking.rendering import SamplePrompt, SampleReader
from ov_kvcrush.evaluation.suites.sample import Sample
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from tests.support.samples import flights

ALONE, THREE = flights(), flights(3)


@pytest.fixture
def reader(needle_int8_dir: Path) -> SampleReader:
    return SampleReader(PromptEncoder(Tokenizer(needle_int8_dir)))


def read(reader: SampleReader, sample: Sample) -> SamplePrompt:
    prompt = reader.read(sample)
    assert prompt is not None
    return prompt


def decoded(reader: SampleReader, tokens: tuple[int, ...] | list[int]) -> str:
    return str(reader.encoder.tokenizer.decode(list(tokens), skip_special_tokens=False))


def test_a_sample_is_what_a_user_would_say_cut_before_its_question(reader: SampleReader) -> None:
    prompt, encoder = read(reader, ALONE), reader.encoder
    said = ALONE.context + ALONE.questions[0].text
    message = [{"role": "user", "content": said}]
    assert list(prompt.tokens) == encoder.encode(encoder.render(message))
    assert decoded(reader, prompt.tokens[: prompt.num_before]).endswith(ALONE.context)
    behind = decoded(reader, prompt.tokens[prompt.num_before :])
    assert behind.startswith("Question: From which gate")
    assert prompt.most_tokens == len(prompt.tokens) + 12


def test_an_answer_goes_on_from_its_opening(reader: SampleReader) -> None:
    for is_chat in (True, False):
        sample = replace(ALONE, opening=" It is gate", is_chat=is_chat)
        prompt = read(reader, sample)
        text = decoded(reader, prompt.tokens)
        assert text.endswith(f"{'<|assistant|>' if is_chat else 'leave?'} It is gate")
        assert decoded(reader, prompt.tokens[: prompt.num_before]).endswith(ALONE.context)


def test_a_text_without_a_question_is_cut_at_its_end(reader: SampleReader) -> None:
    question = replace(ALONE.questions[0], text="")
    sample = replace(ALONE, context="def add(a, b):", questions=(question,), is_chat=False)
    prompt = read(reader, sample)
    assert prompt.num_before == len(prompt.tokens)


def test_later_turns_stand_behind_what_was_said_before(reader: SampleReader) -> None:
    encoder, sample = reader.encoder, replace(THREE, opening=" Gate")
    prompt = read(reader, sample)
    first, second, third = (question.text for question in sample.questions)
    before = prompt.rendered
    before, rest = reader.next_turn(sample, [" A1"], before)
    assert rest.text == f" A1<|eos|><|user|>{second}<|assistant|> Gate"
    _, rest = reader.next_turn(sample, [" A1", " B2"], before)
    assert rest.text == f" B2<|eos|><|user|>{third}<|assistant|> Gate"
    said = [
        {"role": "user", "content": sample.context + first},
        {"role": "assistant", "content": "Gate A1"},
        {"role": "user", "content": second},
    ]
    assert before.text == f"{encoder.render(said).text} Gate"


def test_a_conversation_is_never_longer_than_was_told(reader: SampleReader) -> None:
    prompt, encoder = read(reader, THREE), reader.encoder
    reply = " ".join("xqzjv"[n % 5] for n in range(12))
    most = len(encoder.encode_rest(encoder.plain(reply)))
    questions = tuple(replace(question, most_tokens=most) for question in THREE.questions)
    sample = replace(THREE, questions=questions)
    before, size = prompt.rendered, len(prompt.tokens)
    for replies in ([reply], [reply, reply]):
        before, rest = reader.next_turn(sample, replies, before)
        size += len(encoder.encode_rest(rest))
    told = read(reader, sample).most_tokens
    assert size + most <= told <= size + most + 8


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (replace(THREE, is_chat=False), "flights-0: it has 3, and needs one question"),
        (replace(THREE, questions=()), "flights-0: it has 0, and needs at least one question"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    reader: SampleReader, sample: Sample, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reader.read(sample)


def test_a_template_that_changes_what_was_said_is_refused_before_anything_runs(
    reader: SampleReader,
) -> None:
    messages = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    reader.encoder.tokenizer.set_chat_template("{{ messages | length }} {% set n = 1 %}" + messages)
    read(reader, ALONE)
    with pytest.raises(OVKVCrushError, match=r"flights-0: .* changes what was said in earlier"):
        reader.read(THREE)
    reader.encoder.tokenizer.set_chat_template(messages.replace("}}", "| upper }}"))
    with pytest.raises(OVKVCrushError, match="cannot be told where the question begins"):
        reader.read(ALONE)
