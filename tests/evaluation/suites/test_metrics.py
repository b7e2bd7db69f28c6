"""Metrics: scores worked out by hand, the traps of LongBench's own code among them."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.suites.metrics import METRICS, require_metrics
from ov_kvcrush.evaluation.suites.sample import Question


def score(metric: str, answer: str, *golds: str, classes: tuple[str, ...] = ()) -> float:
    return METRICS[metric](answer, Question("?", golds, metric, 32, classes=classes))


@pytest.mark.parametrize(
    ("answer", "golds", "right"),
    [
        ("Paris", ["Paris"], 1),
        # Articles, case and punctuation do not count.
        ("the Atlas Mountains.", ["Atlas mountains"], 1),
        ("A cat, an owl!", ["cat owl"], 1),
        # Articles are whole words.
        ("another theme", ["nother me"], 0),
        # Punctuation goes first: a.m. is am, not an article and m.
        ("a.m.", ["am"], 1),
        ("don't", ["dont"], 1),
        ("well-known", ["well known"], 0),
        # Quotes that ASCII does not have are a part of the word.
        ("“Paris”", ["Paris"], 0),
        # 1 shared of 2 and 2.
        ("in the Atlas", ["Atlas Mountains"], Fraction(1, 2)),
        # Words count as often as they stand: 1 shared of 3 and 1; 2 of 3 and 2.
        ("cat cat dog", ["cat"], Fraction(2, 4)),
        ("cat cat dog", ["cat cat"], Fraction(4, 5)),
        # Order does not count.
        ("2002 December 8", ["8 December 2002"], 1),
        # Each line counts: 1 shared of 2 and 1.
        ("Paris\nLondon", ["Paris"], Fraction(2, 3)),
        # The best of several: 2 shared of 2 and 3, against 1 of 2 and 1.
        ("December 2002", ["2002", "8 December 2002"], Fraction(4, 5)),
        ("yes", ["no", "yes"], 1),
        # Nothing is told, or nothing is left of it.
        ("", ["Paris"], 0),
        ("Paris", [""], 0),
        ("The", ["a"], 0),
        ("Paris", [], 0),
    ],
)
def test_f1(answer: str, golds: list[str], right: float) -> None:
    assert score("f1", answer, *golds) == pytest.approx(float(right))


@pytest.mark.parametrize(
    ("metric", "answer", "gold", "right"),
    [
        ("f1_first_line", "Paris\nPassage: London is", "Paris", 1),
        ("f1_first_line", "\n\nParis\nLondon", "Paris", 1),
        # A line of spaces is a line.
        ("f1_first_line", " \nParis", "Paris", 0),
        ("f1_first_line", "", "Paris", 0),
        ("rouge_l_first_line", "Mia eats.\nDialogue: Eve drinks.", "Mia eats.", 1),
        ("rouge_l_first_line", "\nMia eats.\nSummary:", "Mia eats.", 1),
        ("rouge_l_first_line", "\n", "Mia eats.", 0),
    ],
)
def test_first_lines(metric: str, answer: str, gold: str, right: float) -> None:
    assert score(metric, answer, gold) == pytest.approx(right)


@pytest.mark.parametrize(
    ("answer", "golds", "right"),
    [
        ("The cat sat.", ["The cat sat."], 1),
        # 3 of 3 words, and 3 of the 5 different ones there: 2 · 1 · 0.6 / 1.6.
        ("the cat sat", ["the cat sat on the mat"], Fraction(3, 4)),
        # One word of three is in order.
        ("sat cat the", ["the cat sat"], Fraction(1, 3)),
        # Case and punctuation are a part of the word: 1 of 2 and 2.
        ("The cat", ["the cat"], Fraction(1, 2)),
        ("cat, dog", ["cat dog"], Fraction(1, 2)),
        # Sentences may come in any order.
        ("b d. a c", ["a c. b d"], 1),
        # A sentence is what stands between full stops, whatever the lines: 4 of 4.
        ("a b\nc d", ["a b c d"], 1),
        # A word that stands often counts once.
        ("cat cat cat", ["cat"], 1),
        # 1 of 2 and 2, against 2 of 2 and 3: 2 · 1 · 2/3 / (5/3).
        ("x y", ["x z", "x y z"], Fraction(4, 5)),
        ("", ["the cat"], 0),
        (" \n", ["the cat. "], 0),
        ("...", ["the cat"], 0),
        ("the cat", [""], 0),
    ],
)
def test_rouge_l(answer: str, golds: list[str], right: float) -> None:
    assert score("rouge_l", answer, *golds) == pytest.approx(float(right))


def test_rouge_l_of_an_answer_without_a_full_stop_that_never_ends() -> None:
    # 2 of 1,998 words, and 2 of 2: 2 · 2 / (1998 + 2).
    limit = sys.getrecursionlimit()
    answer = " ".join(f"w{n}" for n in range(1998))
    assert score("rouge_l", answer, "w0 w1") == pytest.approx(4 / 2000)
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize(
    ("answer", "golds", "right"),
    [
        ("Other location", ["Other location"], 1),
        ("It is of the type Other location.", ["Other location"], 1),
        ("Food", ["Other location"], 0),
        # One of two that are named.
        ("Food or Other location", ["Other location"], Fraction(1, 2)),
        ("Food, City, Other location", ["City"], Fraction(1, 3)),
        # As they are spelled.
        ("food", ["Food"], 0),
        # The first line alone.
        ("Food\nQuestion: Which City?", ["Food"], 1),
        ("\nFood", ["Food"], 1),
        ("Other location", ["Other location", "City"], 1),
        # A part of the right name does not count beside it; a longer name does.
        ("State capital", ["State capital"], 1),
        ("State capital", ["State"], Fraction(1, 2)),
        ("City", ["State", "City"], 1),
        ("", ["Food"], 0),
        ("Drink", ["Drink"], 0),
    ],
)
def test_classification(answer: str, golds: list[str], right: float) -> None:
    classes = ("Food", "City", "State", "State capital", "Other location")
    assert score("classification", answer, *golds, classes=classes) == pytest.approx(float(right))


@pytest.mark.parametrize(
    ("answer", "golds", "right"),
    [
        ("x = 1", ["x = 1"], 1),
        ("\n\nx = 1\ny = 2", ["x = 1"], 1),
        # Comments and Markdown are not code.
        ("# set it\nx = 1", ["x = 1"], 1),
        ("// set it\nx = 1;", ["x = 1;"], 1),
        ("```python\nx = 1\n```", ["x = 1"], 1),
        # A line with a comment behind it neither.
        ("y = 2  # two\nx = 1", ["x = 1"], 1),
        # One character taken out and one put in, of 5 and 5.
        ("x = 2", ["x = 1"], Fraction(8, 10)),
        # One put in, of 3 and 4.
        ("abc", ["abcd"], Fraction(6, 7)),
        # Four spaces of 9 and 5 characters.
        ("    x = 1", ["x = 1"], Fraction(10, 14)),
        # An empty line behind a comment is the answer.
        ("# set it\n\nx = 1", ["x = 1"], 0),
        ("# nothing else", ["x = 1"], 0),
        ("", ["x = 1"], 0),
        ("abc", ["x", "abcd"], Fraction(6, 7)),
    ],
)
def test_edit_similarity(answer: str, golds: list[str], right: float) -> None:
    assert score("edit_similarity", answer, *golds) == pytest.approx(float(right))


@pytest.mark.parametrize(
    ("metric", "answer", "gold", "right"),
    [
        ("retrieval", "Paragraph 3", "Paragraph 3", 1),
        ("retrieval", " 3.", "Paragraph 3", 1),
        ("retrieval", "Paragraph 3 or 7", "Paragraph 3", Fraction(1, 2)),
        ("retrieval", "3, no, 4, no, 3", "Paragraph 3", Fraction(2, 3)),
        ("retrieval", "Paragraph 13", "Paragraph 3", 0),
        ("retrieval", "Paragraph three", "Paragraph 3", 0),
        ("retrieval", "", "Paragraph 3", 0),
        ("retrieval", "3", "Paragraph", 0),
        ("count", "There are 5 of them.", "5", 1),
        # 5 and 0 are two numbers; 05 is not 5.
        ("count", "5.0", "5", Fraction(1, 2)),
        ("count", "05", "5", 0),
        ("count", "five", "5", 0),
    ],
)
def test_numbers(metric: str, answer: str, gold: str, right: float) -> None:
    assert score(metric, answer, gold) == pytest.approx(float(right))


@pytest.mark.parametrize(
    ("metric", "answer", "golds", "right"),
    [
        ("exact", " 417\n", ["417"], 1),
        ("exact", "417.", ["417"], 0),
        ("exact", "noted", ["Noted"], 0),
        ("exact", "b", ["a", "b"], 1),
        ("exact", "", ["417"], 0),
        ("contains_all", "It is 12, and also 34.", ["12", "34"], 1),
        ("contains_all", "It is 12.", ["12", "34"], Fraction(1, 2)),
        ("contains_all", "BLUE whale", ["blue", "Whale"], 1),
        # Inside a word too.
        ("contains_all", "4123", ["12"], 1),
        ("contains_all", "", ["12"], 0),
        ("contains_all", "anything", [""], 0),
        ("contains_all", "anything", [], 0),
        ("contains_any", "It is 12.", ["12", "34"], 1),
        ("contains_any", "It is Twelve.", ["12", "twelve"], 1),
        ("contains_any", "It is 5.", ["12", "34"], 0),
        ("contains_any", "", ["", "34"], 0),
    ],
)
def test_matching(metric: str, answer: str, golds: list[str], right: float) -> None:
    assert score(metric, answer, *golds) == pytest.approx(float(right))


def test_what_cannot_be_scored_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    require_metrics(METRICS)
    with pytest.raises(ConfigError, match=r"unknown metric 'rouge'\nDid you mean 'rouge_l'"):
        require_metrics(["f1", "rouge"])
    for library, metric in (("rouge", "rouge_l"), ("rapidfuzz", "edit_similarity")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigError, match=f"the metric {metric} needs {library}, which is not"):
            require_metrics([metric])
        with pytest.raises(ConfigError, match=r'pip install "ov-kvcrush\[eval\]"'):
            score(metric, "a", "a")
