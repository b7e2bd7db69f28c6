"""How much is drafted: nothing that does not pay, and never much that is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.runtime.generation.draft_costs import DraftCosts
from ov_kvcrush.runtime.generation.draft_policy import DraftRecord, share_out


def generate(
    chance: float, each_row: float, num_tokens: int, match: int = 2, change: float = 0.0
) -> float:
    """How many times as fast a text comes with drafts, each of which comes true so often."""
    random, record = np.random.default_rng(0), DraftRecord()
    generated, time, last = 0, 0.0, 1
    while generated < num_tokens:

        def changing(rows: int, last: int = last) -> float:
            return 0.0 if rows == last else change * (1 + (last == 1))

        (count,) = share_out(
            [record], [match], [10], lambda rows: 1 + each_row * (rows - 1), changing
        )
        came_true = random.random(max(1, count)) < chance
        accepted = int(np.argmin([*came_true[:count], False]))
        lost = each_row * count + (changing(1 + count) if count else 0.0)
        if count:
            record.note(match, count, accepted, lost)
        else:
            record.note_guess(match, bool(came_true[0]))
        generated += 1 + accepted
        time += 1 + lost
        last = 1 + count
    return generated / time


@pytest.mark.parametrize("each_row", [0.01, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("match", [2, 5, 16])
def test_a_text_in_which_nothing_comes_true_takes_hardly_longer(
    each_row: float, match: int
) -> None:
    assert generate(0.0, each_row, 200, match) > 0.98
    assert generate(0.0, each_row, 2000, match) > 0.985


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("each_row", [0.02, 0.1, 0.4])
def test_drafts_that_seldom_come_true_cost_hardly_anything(chance: float, each_row: float) -> None:
    assert generate(chance, each_row, 1000) > 0.98


def test_text_that_is_copied_comes_several_times_as_fast() -> None:
    assert generate(0.98, 0.03, 200, match=16) > 5
    assert generate(0.98, 0.03, 200) > 4


@pytest.mark.parametrize("change", [0.2, 0.5, 1.1])
def test_steps_of_other_lengths_now_and_then_do_not_pay(change: float) -> None:
    for chance in (0.0, 0.2, 0.4):
        for match in (2, 5, 16):
            assert generate(chance, 0.08, 300, match, change) > 0.98


@pytest.mark.parametrize("change", [0.2, 0.5])
def test_text_that_is_copied_comes_fast_though_changes_of_length_cost(change: float) -> None:
    assert generate(0.95, 0.07, 200, 16, change) > 2.5


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(0, 15)), max_size=200))
def test_whatever_comes_true_what_is_lost_is_bounded(steps: list[tuple[int, int]]) -> None:
    record, won, least, guessed = DraftRecord(), 0.0, 0.0, 0
    for match, num_right in steps:
        (count,) = share_out([record], [match], [10], lambda rows: 1 + 0.07 * (rows - 1))
        accepted = min(count, num_right)
        if count:
            record.note(match, count, accepted, 0.07 * count)
        else:
            record.note_guess(match, num_right > 0)
            guessed += num_right > 0
        won += accepted - 0.07 * count
        least = min(least, won)
    # Of one step all may be lost, however likely it was.
    assert least >= -(0.3 + 0.7 + 0.01 * len(steps) + 0.1 * guessed + 1e-9)


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 12)), min_size=1, max_size=8),
    st.floats(0.0, 1.0),
)
def test_drafts_stay_within_their_limits(sequences: list[tuple[int, int]], each_row: float) -> None:
    matches, limits = zip(*sequences, strict=True)
    records = [DraftRecord() for _ in sequences]
    counts = share_out(
        records, matches, limits, lambda rows: 1 + each_row * (rows - len(sequences))
    )
    for match, limit, count in zip(matches, limits, counts, strict=True):
        assert 0 <= count <= (limit if match else 0)


def test_what_is_likelier_is_drafted_first() -> None:
    records = [DraftRecord(), DraftRecord()]
    few, many = share_out(records, [2, 16], [10, 10], lambda rows: 1 + 0.08 * (rows - 2))
    assert few < many


def test_drafts_come_back_when_guesses_come_true_again() -> None:
    record = DraftRecord()

    def drafted(come_true: bool) -> int:
        (count,) = share_out([record], [2], [10], lambda rows: 1 + 0.05 * (rows - 1))
        if count:
            record.note(2, count, count * come_true, 0.05 * count)
        else:
            record.note_guess(2, come_true)
        return count

    assert sum(drafted(False) for _ in range(100)) < 10
    counts = [drafted(True) for _ in range(40)]
    assert max(counts[:20]) > 0
    assert min(counts[-10:]) == 10


def test_what_is_guessed_is_learned_from_without_a_draft() -> None:
    record = DraftRecord()
    before = record.chance(2), record.chance(16)
    for _ in range(30):
        record.note_guess(2, True)
        record.note_guess(16, False)
        record.note_guess(0, False)
    assert record.chance(2) > 0.9 > before[0]
    assert record.chance(16) < 0.3 < before[1]


def test_what_comes_true_of_a_draft_counts_for_the_longer_match_that_it_makes() -> None:
    record = DraftRecord()
    before = record.chance(2), record.chance(16)
    record.note(2, 9, 8, 0.0)
    assert record.chance(2) > before[0]
    assert record.chance(16) < before[1]


def test_costs_are_a_guess_until_steps_have_been_measured() -> None:
    costs = DraftCosts(most_rows=16)
    assert costs.ratio(1, 1) == 1.0
    assert 1.0 < costs.ratio(1, 2) < costs.ratio(1, 11) <= 2.0


def test_costs_are_what_is_usual() -> None:
    costs = DraftCosts(most_rows=16)
    for rows, seconds in ((1, 0.010), (6, 0.014)):
        for _ in range(6):
            costs.note(1, rows, seconds)
        costs.note(1, rows, 3.0)
    assert costs.ratio(1, 6) == pytest.approx(1.4)
    assert 1.0 < costs.ratio(1, 3) < 1.4
    assert costs.ratio(1, 16) >= 1.4


def test_a_change_of_rows_costs_there_and_back() -> None:
    costs = DraftCosts(most_rows=16)
    guessed = costs.change(1, 6)
    for _ in range(5):
        costs.note(1, 1, 0.010)
        costs.note(1, 1, 0.010)
        costs.note(1, 6, 0.018)
        costs.note(1, 6, 0.014)
        costs.note(1, 1, 0.014)
    assert guessed > 0
    assert costs.ratio(1, 6) == pytest.approx(1.4)
    assert costs.change(1, 1) == 0.0
    costs.note(1, 1, 0.010)
    assert costs.change(1, 6) == pytest.approx(0.8)
    costs.note(1, 6, 0.018)
    assert costs.change(1, 6) == 0.0
    assert costs.change(1, 3) == pytest.approx(0.4)


def test_one_draft_tells_what_its_rows_cost_without_the_change() -> None:
    costs = DraftCosts(most_rows=16)
    for seconds in (0.010, 0.010, 0.010):
        costs.note(1, 1, seconds)
    costs.note(1, 6, 0.018)
    costs.note(1, 1, 0.014)
    assert costs.ratio(1, 6) == pytest.approx(1.4)


def test_steps_behind_those_that_do_more_than_decode_tell_nothing() -> None:
    costs = DraftCosts(most_rows=16)
    for _ in range(5):
        costs.note(1, 1, 0.010)
        costs.note_other()
        costs.note(1, 1, 0.090)
    costs.note(1, 1, 0.010)
    costs.note(1, 6, 0.015)
    costs.note(1, 1, 0.012)
    assert costs.ratio(1, 6) == pytest.approx(1.3)


def test_more_rows_are_never_quicker() -> None:
    costs = DraftCosts(most_rows=16)
    for rows, seconds in ((2, 0.010), (5, 0.020), (9, 0.012)):
        for _ in range(6):
            costs.note(2, rows, seconds)
    ratios = [costs.ratio(2, rows) for rows in range(2, 17)]
    assert ratios == sorted(ratios)
    assert ratios[0] == 1.0
