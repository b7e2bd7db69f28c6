"""Prompts: where the question begins in the tokens, what is the right answer, what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.evaluation.fidelity.prompts import Prompt, Prompter
from ov_kvcrush.evaluation.fidelity.texts import Text
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from tests.support.texts import document, rooms

CHAT = (
    {"role": "user", "content": f"{document()}\n"},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": " What is room 7? "},
)


@pytest.fixture(scope="module")
def prompter(needle_int8_dir: Path) -> Prompter:
    return Prompter(PromptEncoder(Tokenizer(needle_int8_dir)), num_tokens=8)


def choose(prompter: Prompter, *texts: Text, limit: int | None = None) -> list[Prompt]:
    return prompter.choose(texts, limit, lambda size: size < 20, lambda note: None)


def decoded(prompter: Prompter, tokens: tuple[int, ...]) -> str:
    return str(prompter.encoder.tokenizer.decode(list(tokens), skip_special_tokens=False))


def test_a_conversation_is_cut_before_its_last_question(prompter: Prompter) -> None:
    (prompt,) = choose(prompter, Text("a", "t", CHAT, question=" What is room 7? ", gold=" 417 "))
    encoder = prompter.encoder
    assert list(prompt.tokens) == encoder.encode(encoder.render(CHAT))
    before, behind = (
        decoded(prompter, part)
        for part in (prompt.tokens[: prompt.num_before], prompt.tokens[prompt.num_before :])
    )
    assert "Noted." in before
    assert "What is" not in before
    assert behind.lstrip().startswith("What is room 7?")
    assert decoded(prompter, prompt.gold).strip() == "417"


def test_a_single_message_is_cut_before_the_templates_tail(prompter: Prompter) -> None:
    (prompt,) = choose(prompter, Text("a", "t", CHAT[:1]))
    before = decoded(prompter, prompt.tokens[: prompt.num_before])
    assert before.endswith(document()[-20:])
    assert 0 < len(prompt.tokens) - prompt.num_before < 12
    assert prompt.gold == ()


def test_a_plain_prompt_is_cut_before_what_it_ends_with(prompter: Prompter) -> None:
    question = "\n\nWhat is room 7?\nAnswer:"
    text = Text("a", "t", f"{document()}{question}", question, "417", most_tokens=2)
    (prompt,) = choose(prompter, text)
    before = decoded(prompter, prompt.tokens[: prompt.num_before])
    assert "What is" not in before
    assert decoded(prompter, prompt.tokens).endswith("What is room 7?\nAnswer:")
    assert prompt.most_tokens == 2
    assert len(prompt.gold) <= 2
    # Behind a word the answer is one of its own.
    assert decoded(prompter, prompt.gold).startswith(" ")
    (open_line,) = choose(prompter, replace(text, content=f"{text.content}\n"))
    assert not decoded(prompter, open_line.gold).startswith(" ")


def test_what_cannot_be_found_again_is_refused(prompter: Prompter) -> None:
    with pytest.raises(OVKVCrushError, match="a: the model's chat template changes what is asked"):
        choose(prompter, Text("a", "t", CHAT, question="Something else?"))


def test_a_long_text_is_read_in_passages_that_go_on_with_their_answers(prompter: Prompter) -> None:
    text = Text("a", "t", rooms(300), is_passage=True)
    whole = prompter.encoder.encode(prompter.encoder.plain(rooms(300)))
    sized = replace(prompter, sizes=(100, 500))
    passages = choose(sized, text)
    assert [prompt.id for prompt in passages] == [f"a {n + 1}" for n in range(len(passages))]
    assert len(passages) == len(whole) // 507
    assert {len(prompt.tokens) for prompt in passages} == {500}
    # Each begins with what a text begins with.
    assert {prompt.tokens[0] for prompt in passages} == {whole[0]}
    tokens = [token for prompt in passages for token in (*prompt.tokens[1:], *prompt.gold)]
    assert tokens == whole[1 : len(tokens) + 1]
    assert all(len(prompt.tokens) - prompt.num_before == 128 for prompt in passages)
    halves = [choose(replace(sized, split=half), text) for half in ("tune", "held")]
    assert {p.id for half in halves for p in half} == {p.id for p in passages}


def test_a_short_text_ends_with_its_answer_unless_it_has_one(prompter: Prompter) -> None:
    whole = prompter.encoder.encode(prompter.encoder.plain(document()))
    (prompt,) = choose(prompter, Text("a", "t", document(), is_passage=True))
    assert [*prompt.tokens, *prompt.gold] == whole
    assert len(prompt.gold) == 8
    (answered,) = choose(prompter, Text("a", "t", document(), gold="Yes", is_passage=True))
    assert list(answered.tokens) == whole
    assert decoded(prompter, answered.gold).strip() == "Yes"


def test_what_does_not_fit_is_left_out_and_counted(prompter: Prompter) -> None:
    notes: list[str] = []
    texts = [
        Text(f"{n}", "t", rooms(count), question=f"{7 * count - 7}.")
        for n, count in enumerate((2, 30, 25, 400))
    ]
    bounded = replace(prompter, context=400)
    chosen = bounded.choose(texts, None, lambda size: size < 20, notes.append)
    assert [prompt.id for prompt in chosen] == ["1", "2"]
    assert notes == ["left out: 1 longer than the model's context, 1 too short for the budgets"]
    assert [p.id for p in bounded.choose(texts, 1, lambda size: size < 20, notes.append)] == ["1"]
    sized = replace(bounded, sizes=(len(chosen[1].tokens), len(chosen[1].tokens)))
    assert [p.id for p in sized.choose(texts, None, lambda size: False, notes.append)] == ["2"]
    with pytest.raises(ConfigError, match=r"no text is left to measure on: 4 too short"):
        replace(prompter).choose(texts, None, lambda size: True, notes.append)
