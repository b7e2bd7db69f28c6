"""Which samples come first, and what is shown of each."""

from __future__ import annotations

import pytest

from ov_kvcrush.evaluation.reporting.page.sample_views import view_of, worst_first
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from tests.support.suite_results import FULL, RANK, SNAPKV, make_result, make_sample, turns_results


def results_of(**scores: tuple[float, float, float]) -> SuiteResults:
    samples = [make_sample(name, "qa") for name in scores]
    results = [
        make_result(
            sample, {("known", c): (s,) for c, s in zip((FULL, RANK, SNAPKV), values, strict=True)}
        )
        for sample, values in zip(samples, scores.values(), strict=True)
    ]
    return SuiteResults.of((FULL, RANK, SNAPKV), samples, results)


def test_samples_of_which_cut_caches_lose_most_come_first() -> None:
    results = results_of(
        same=(1.0, 1.0, 1.0),
        all_lost=(1.0, 0.0, 0.0),
        hopeless=(0.0, 0.0, 0.0),
        half_lost=(1.0, 1.0, 0.0),
        gained=(0.0, 1.0, 1.0),
    )
    rows = worst_first(results)
    assert [row.id for row in rows] == ["all_lost", "half_lost", "hopeless", "same", "gained"]
    assert [row.loss for row in rows] == [1.0, 0.5, 0.0, 0.0, -1.0]


def test_without_a_full_cache_the_lowest_scores_come_first() -> None:
    samples = [make_sample(name, "qa") for name in ("good", "bad")]
    scores = ({("known", RANK): (1.0,)}, {("known", RANK): (0.0,)})
    results = [make_result(s, by_place) for s, by_place in zip(samples, scores, strict=True)]
    rows = worst_first(SuiteResults.of((RANK,), samples, results))
    assert [(row.id, row.full) for row in rows] == [("bad", None), ("good", None)]


def test_an_answer_stands_once_beside_all_caches_that_gave_it() -> None:
    view = view_of(results_of(one=(1.0, 0.0, 0.0)), worst_first(results_of(one=(1.0, 0.0, 0.0)))[0])
    (question,) = view.questions
    right, wrong = question.answers
    assert right.caches == (("full cache", ""),)
    assert (right.score, right.mark, right.is_below_full) == ("100.0", "✓ right", False)
    assert wrong.caches == (("rank 1/4", ""), ("snapkv 1/4", ""))
    assert (wrong.text, wrong.score, wrong.mark) == ("scores 0", "0.0", "✗ wrong")
    assert wrong.is_below_full


def test_settings_are_named_where_a_cache_answers_otherwise_in_others() -> None:
    results = turns_results()
    row = next(row for row in worst_first(results) if row.id == "a")
    first, second, third = view_of(results, row).questions
    # Rank: 1, 0.5, 0 where the question is known, else 0 three times.
    assert [(a.caches, a.score) for a in first.answers] == [
        ((("full cache", ""), ("rank 1/4", "known"), ("snapkv 1/4", "")), "100.0"),
        ((("rank 1/4", "unknown"),), "0.0"),
    ]
    assert [a.mark for a in second.answers] == ["✓ right", "◐ in part", "✗ wrong"]
    assert [a.caches for a in third.answers][1] == (("rank 1/4", ""), ("snapkv 1/4", ""))
    assert [q.title for q in (first, second)] == ["Question 1", "Question 2"]


def test_an_answer_that_does_not_count_is_neither_right_nor_wrong() -> None:
    results = turns_results()
    row = next(row for row in worst_first(results) if row.id == "c")
    summary = view_of(results, row).questions[0]
    assert summary.title == "Question 1, not scored"
    assert {(a.score, a.mark, a.is_below_full) for a in summary.answers} == {("–", "", False)}


@pytest.mark.parametrize("length", [0, 10, 100_000])
def test_texts_are_shown_shortened(length: int) -> None:
    text = "x" * length
    sample = make_sample("a" * 500, "qa", context=text, question=text, golds=(text,) * 20)
    result = make_result(sample, {("known", FULL): (1,)}, text=text or None)
    results = SuiteResults.of((FULL,), [sample], [result])
    view = view_of(results, worst_first(results)[0])
    (question,) = view.questions
    assert len(view.row.id) < 120
    assert len(view.context) < 1000
    assert len(question.text) < 1300
    assert len(question.answers[0].text) < 700
    assert len(question.golds) == 9
    assert question.golds[-1] == "… and 12 more"
