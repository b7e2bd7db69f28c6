"""Conversations over one context: what is asked can be answered, from one place in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings

from ov_kvcrush.evaluation.suites.generating.making import make_samples
from ov_kvcrush.evaluation.suites.generating.prose import words_of
from ov_kvcrush.evaluation.suites.sample import Question, Sample
from ov_kvcrush.evaluation.suites.turns.associations import ASSOCIATIONS, content_words
from ov_kvcrush.evaluation.suites.turns.tasks import TASKS
from tests.support.generated_samples import LENGTHS, SEEDS, count, sample_of


def scored(sample: Sample) -> list[Question]:
    return [question for question in sample.questions if question.metric == "contains_all"]


@pytest.mark.parametrize("task", TASKS)
@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_five_questions_each_answered_in_one_place(task: str, length: int, seed: int) -> None:
    sample = sample_of(TASKS, task, length, seed)
    assert len({question.text for question in sample.questions}) == 5
    questions = scored(sample)
    assert len(questions) == (4 if task == "summary_with_needles" else 5)
    answers = [answer for question in questions for answer in question.answers]
    assert len(set(answers)) == len(questions)
    for question, answer in zip(questions, answers, strict=True):
        assert sample.context.count(answer) == 1
        assert answer in (question.reply or "")
        assert not any(answer in asked.text for asked in sample.questions)
    assert sample.opening == ""


@pytest.mark.parametrize("task", TASKS)
def test_each_part_of_the_context_is_asked_about_and_in_no_order(task: str) -> None:
    orders = set()
    for sample in make_samples(TASKS, 4000, count, 12, tasks=[task]):
        places = [sample.context.index(question.answers[0]) for question in scored(sample)]
        ordered = sorted(places)
        begins = [place / len(sample.context) for place in ordered]
        parts = len(begins)
        # A sentence moves what stands behind it, and a passage is not parted.
        for part, begin in enumerate(begins):
            assert part / parts - 0.08 < begin < (part + 1) / parts + 0.08
        orders.add(tuple(ordered.index(place) for place in places))
    assert len(orders) >= 8


@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_facts_about_others_do_not_answer(length: int, seed: int) -> None:
    sample = sample_of(TASKS, "needles", length, seed)
    for question in sample.questions:
        (person,) = (word for word in re.findall(r"[A-Z]\w+", question.text)[1:])
        sentences = [text for text in re.split(r"(?<=\.)\s", sample.context) if person in text]
        (sentence,) = sentences
        assert question.answers[0] in sentence


def test_a_summary_is_asked_for_first_and_not_scored() -> None:
    sample = sample_of(TASKS, "summary_with_needles", 4000, 0)
    summary, *others = sample.questions
    assert (summary.metric, summary.answers) == ("unscored", ())
    assert summary.reply
    assert not any(other.answers[0] in summary.reply for other in others)


@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_values_are_those_of_their_keys(length: int, seed: int) -> None:
    sample = sample_of(TASKS, "key_value", length, seed)
    pairs = json.loads(sample.context[sample.context.index("{") :])
    assert len(set(pairs.values())) == len(pairs) > 15
    for question in sample.questions:
        (key,) = re.findall(r'"(.+)"', question.text)
        assert pairs[key] == question.answers[0] == question.reply
        assert len(key) == len(pairs[key]) == 36


BEHAVIORS: dict[str, Callable[[Any, int, int], bool]] = {
    "multiplies a": lambda f, a, b: f(7) == 7 * a + b,
    "keeps a": lambda f, a, b: (f(a - 1), f(a + 1), f(b + 9)) == (a, min(a + 1, b), b),
    "divides a": lambda f, a, b: f(123_456) == (123_456 // a) % b,
    "leaves out": lambda f, a, b: f([a, b, *range(a + 1, b)]) == list(range(a + 1, b)),
    "takes every": lambda f, a, b: f(list(range(3000))) == list(range(a, 3000, b)),
    "shortens a": lambda f, a, b: f("x" * 2000) == " " * (b - a) + "x" * a,
    "adds up": lambda f, a, b: f([5, *[1] * a]) == a / b,
}


@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_functions_do_what_is_said_of_them(length: int, seed: int) -> None:
    sample = sample_of(TASKS, "code_lookup", length, seed)
    (code,) = re.findall(r"```python\n(.*)\n```", sample.context, re.DOTALL)
    module: dict[str, Any] = {}
    exec(code, module)
    assert code.count("\ndef ") == sum(callable(value) for value in module.values())
    by_name = [question for question in sample.questions if " return?" in question.text]
    assert len(by_name) == 2
    for question in sample.questions:
        if question in by_name:
            (name,) = re.findall(r"number does (\w+)\(\)", question.text)
            assert str(module[name]()) == question.answers[0]
            assert code.count(f"{name}(") == 1
        else:
            said = question.text.removeprefix("Which function ")
            (holds,) = (check for begin, check in BEHAVIORS.items() if said.startswith(begin))
            a, b = sorted(map(int, re.findall(r"\d+", said)))
            assert holds(module[question.answers[0]], a, b)
            bodies = [set(re.findall(r"\d+", body)) for body in code.split("\n\n\n")]
            assert sum({str(a), str(b)} <= numbers for numbers in bodies) == 1


@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_the_whole_text_has_no_word_of_a_question(length: int, seed: int) -> None:
    sample = sample_of(TASKS, "no_literal_match", length, seed)
    text = sample.context.partition("\n\n")[2]
    for question in sample.questions:
        assert not content_words(question.text) & set(words_of(text))


def stems(text: str) -> list[str]:
    return sorted(word[:5] for word in content_words(text) if len(word) > 2)


def test_associations_share_no_content_word_with_their_questions() -> None:
    assert len(ASSOCIATIONS) >= 40
    assert len({association.question for association in ASSOCIATIONS}) == len(ASSOCIATIONS)
    assert len({association.sentence for association in ASSOCIATIONS}) == len(ASSOCIATIONS)
    for association in ASSOCIATIONS:
        assert association.sentence.count("{person}") == 1
        asked, said = stems(association.question), stems(association.sentence)
        assert asked
        both = pairwise(sorted([*set(asked), *set(said)]))
        assert [pair for pair in both if pair[1].startswith(pair[0])] == [], association


def test_associations_do_not_answer_each_others_questions_in_words() -> None:
    for association in ASSOCIATIONS:
        wanted = content_words(association.question)
        for other in ASSOCIATIONS:
            assert not wanted & content_words(other.sentence), (association, other)
