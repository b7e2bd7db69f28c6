"""The prose that facts are hidden in."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.evaluation.suites.generating.placing import place
from ov_kvcrush.evaluation.suites.generating.prose import passages, prose, vocabulary, words_of
from ov_kvcrush.evaluation.suites.generating.words import PEOPLE


def text_of(seed: int, num_words: int, **options: set[str]) -> str:
    return place(prose(Random(seed), num_words, **options), [])


@given(st.integers(0, 10**6), st.integers(1, 3000))
def test_prose_has_as_many_words_as_are_wanted(seed: int, num_words: int) -> None:
    text = text_of(seed, num_words)
    assert len(text.removesuffix("…").split()) == num_words
    assert text[0] in "\"'—" or text[0].isupper() or text[0].isdigit()
    # More of it is the same and something behind it.
    assert text_of(seed, num_words + 500).startswith(text.removesuffix(" …"))


def test_prose_begins_anew_behind_its_end() -> None:
    whole = sum(len(passage.text.split(" ")) for passage in passages())
    text = text_of(0, whole + 100)
    begin = text[:200]
    assert text.count(begin) == 2


def test_words_can_be_kept_out() -> None:
    text = text_of(1, 20_000)
    assert "admiral" in words_of(text)
    assert "admiral" not in words_of(text_of(1, 20_000, without={"admiral"}))


def test_a_speech_is_not_interrupted() -> None:
    broken = [passage for passage in passages() if passage.text.count('"') % 2]
    # Speeches that go on in the next paragraph, and misprints.
    assert len(broken) < len(passages()) / 50


def test_the_vocabulary_is_plain_words() -> None:
    words = vocabulary()
    assert len(words) > 5000
    assert list(words) == sorted(set(words))
    assert all(word.isalpha() and word.islower() and len(word) >= 4 for word in words)


def test_the_prose_knows_none_of_the_people_of_facts() -> None:
    text = " ".join(passage.text for passage in passages()).lower()
    assert [name for name in PEOPLE if name.lower() in text] == []
