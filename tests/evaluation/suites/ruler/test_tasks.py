"""RULER's tasks: each sample is solved by a reader who knows only what the task is."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings

from ov_kvcrush.evaluation.suites.generating.making import make_samples
from ov_kvcrush.evaluation.suites.ruler.tasks import TASKS
from ov_kvcrush.evaluation.suites.sample import Sample
from tests.support.generated_samples import LENGTHS, SEEDS, count, sample_of

NEEDLE = re.compile(r"One of the magic (?:number|UUID)s of (\S+) is (\S+)\.(?=\s)")

# Keys and values that are asked for, and needles of other keys, which a haystack has by itself.
NEEDLES = {
    "niah_single_1": (1, 1, 0),
    "niah_single_2": (1, 1, 0),
    "niah_single_3": (1, 1, 0),
    "niah_multikey_1": (1, 1, 3),
    "niah_multikey_2": (1, 1, None),
    "niah_multikey_3": (1, 1, None),
    "niah_multivalue": (1, 4, 0),
    "niah_multiquery": (4, 4, 0),
}


def asked(sample: Sample) -> str:
    (question,) = sample.questions
    assert question.metric == "contains_all"
    assert question.reply is None
    return question.text


def test_all_tasks_are_here() -> None:
    assert list(TASKS) == [*NEEDLES, "vt", "cwe", "fwe"]


@pytest.mark.parametrize("task", NEEDLES)
@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_needles_are_found_once_each(task: str, length: int, seed: int) -> None:
    num_keys, num_answers, num_others = NEEDLES[task]
    sample = sample_of(TASKS, task, length, seed)
    question = asked(sample)
    needles = NEEDLE.findall(sample.context)
    wanted = [(key, value) for key, value in needles if f" {key}" in question]
    answers = sample.questions[0].answers
    assert sorted(value for _, value in wanted) == sorted(answers)
    assert len({key for key, _ in wanted}) == num_keys
    assert len(answers) == num_answers
    assert all(sample.context.count(answer) == 1 for answer in answers)
    others = [needle for needle in needles if needle not in wanted]
    assert len(others) == num_others if num_others is not None else len(others) > 20
    assert not {key for key, _ in others} & {key for key, _ in wanted}
    assert not {value for _, value in others} & set(answers)
    assert sample.questions[0].most_tokens == 128
    assert sample.opening.removesuffix(" is").removesuffix(" are").lower() in question.lower()


def test_values_and_keys_are_of_the_kinds_that_the_paper_names() -> None:
    number, uuid, words = r"\d{7}", r"[0-9a-f-]{36}", r"[a-z]+-[a-z]+"
    kinds = {"niah_single_3": (words, uuid), "niah_multikey_3": (uuid, uuid)}
    for task in NEEDLES:
        context = sample_of(TASKS, task, 3000, 0).context
        # The last needle of a haystack may be cut short.
        *needles, _ = [*NEEDLE.findall(context), ("", "")][: 20 if "key" in task else None]
        key_kind, value_kind = kinds.get(task, (words, number))
        assert all(re.fullmatch(key_kind, key) for key, _ in needles)
        assert all(re.fullmatch(value_kind, value) for _, value in needles)


def test_needles_stand_anywhere() -> None:
    depths = []
    for sample in make_samples(TASKS, 1000, count, 60, tasks=["niah_single_1"]):
        (answer,) = sample.questions[0].answers
        depths.append(sample.context.index(answer) / len(sample.context))
    tenths = Counter(min(9, int(10 * depth)) for depth in depths)
    assert len(tenths) >= 9
    assert max(tenths.values()) < 18


@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_variables_hold_what_is_handed_on(length: int, seed: int) -> None:
    sample = sample_of(TASKS, "vt", length, seed)
    example, text = sample.context.split("Now the text that counts:")
    (value,) = re.findall(r"\d+", asked(sample))
    for part, wanted in ((text, value), (example, None)):
        held: dict[str, str] = {}
        for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", part):
            assert name not in held
            held[name] = held.get(source, source)
        assert len(held) == 5
        if wanted:
            assert set(held.values()) == {wanted}
            assert tuple(held) == sample.questions[0].answers
        else:
            assert value not in held.values()
            assert example.strip().endswith(f": {', '.join(held)}.")
    assert all(len(re.findall(f"VAR {name} =", sample.context)) == 1 for name in held)
    assert sample.questions[0].most_tokens == 30


@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_common_words_are_the_most_common(length: int, seed: int) -> None:
    sample = sample_of(TASKS, "cwe", length, seed)
    example, text = sample.context.split("Now the list that counts:")
    words = Counter(re.findall(r"\d+\. (\S+)", text))
    answers = sample.questions[0].answers
    assert {word for word, _ in words.most_common(10)} == set(answers)
    times = {words[word] for word in answers}
    assert len(times) == 1
    others = {word: number for word, number in words.items() if word not in answers}
    assert times.pop() >= 10 * max(others.values())
    assert not any(word in other or other in word for word in answers for other in others)
    shown, _ = zip(*Counter(re.findall(r"\d+\. (\S+)", example)).most_common(10), strict=True)
    assert set(shown) == set(example.strip().rpartition(" are ")[2].rstrip(".").split(", "))
    assert not set(re.findall(r"\d+\. (\S+)", example)) & set(words)
    assert sample.questions[0].most_tokens == 120


def test_long_lists_have_thirty_times_and_three_times() -> None:
    context = sample_of(TASKS, "cwe", 60_000, 0).context
    words = Counter(re.findall(r"\d+\. (\S+)", context.split("Now the list that counts:")[1]))
    assert set(words.values()) - {30, 3} <= {1, 2}
    # More than the prose has: two of its words together.
    assert sum(number == 3 for number in words.values()) > 3000


@given(length=LENGTHS, seed=SEEDS)
@settings(max_examples=10)
def test_frequent_words_follow_a_zeta_law(length: int, seed: int) -> None:
    sample = sample_of(TASKS, "fwe", length, seed)
    words = sample.context.strip().rpartition("\n")[2].split()
    ranked = Counter(words).most_common()
    assert ranked[0][0] == "...."
    answers = sample.questions[0].answers
    assert tuple(word for word, _ in ranked[1:4]) == answers
    # Ranks 1 and 2 are as 4 to 1, and the fourth word is rarer than what is asked for.
    assert ranked[0][1] == pytest.approx(4 * ranked[1][1], rel=0.1)
    assert ranked[0][1] == pytest.approx(len(words) * 6 / 3.14159**2, rel=0.01)
    assert ranked[4][1] < ranked[3][1]
    assert sample.questions[0].most_tokens == 50


def test_the_shortest_samples_have_their_answers_too() -> None:
    for task, maker in TASKS.items():
        for seed in range(20):
            sample = maker(Random(seed), 0)
            assert all(answer in sample.context for answer in sample.questions[0].answers), task
            if task == "fwe":
                counts = Counter(sample.context.strip().rpartition("\n")[2].split()).most_common()
                assert counts[3][1] > counts[4][1]
