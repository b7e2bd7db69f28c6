"""Whose far tokens are worth something: which heads are tried, and what is told meanwhile."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from ov_kvcrush.export.layer_shares import surprise
from ov_kvcrush.export.layer_shares.surprise import added_surprise


class Worths:
    """Nats that each cache layer adds when it is blind: in place of a model that copies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *worths: float) -> None:
        self.tried: list[list[int]] = []
        self.shares: list[float] = []
        self._worths = worths
        monkeypatch.setattr(surprise, "_surprise", self._surprise)

    def measured(self, *parts: list[int]) -> list[float]:
        found = added_surprise(None, parts, self.shares.append)  # type: ignore[arg-type]
        return [round(float(worth.item()), 6) for worth in found]

    def _surprise(self, _: object, blind: Collection[int] = ()) -> float:
        self.tried.append(list(blind))
        return 1.0 + sum(self._worths[n] for n in blind)


def test_heads_are_tried_one_by_one_where_a_layer_is_worth_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worths = Worths(monkeypatch, 0.001, 0.003, 0.0, 2.0, 0.5, 0.1, 0.05, 0.05)
    found = worths.measured([0, 1], [2, 3], [4, 5], [6, 7])
    assert worths.tried == [[], [0, 1], [2, 3], [4, 5], [6, 7], [2], [3], [4], [5]]
    # What has not been told apart is shared evenly.
    assert found == [0.002, 0.002, 0.0, 2.0, 0.5, 0.1, 0.05, 0.05]


def test_a_layer_with_one_cache_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worths = Worths(monkeypatch, 1.0, 0.1, 0.0)
    assert worths.measured([0], [1, 2]) == [1.0, 0.05, 0.05]
    assert worths.tried == [[], [0], [1, 2]]


def test_where_no_layer_stands_out_of_the_noise_no_head_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worths = Worths(monkeypatch, -0.02, -0.01, 0.01, 0.015)
    assert worths.measured([0, 1], [2, 3]) == [0, 0, 0, 0]
    assert worths.tried == [[], [0, 1], [2, 3]]
    assert worths.shares[-1] == 1


def test_less_surprise_without_far_tokens_is_worth_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Worths(monkeypatch, 1.0, -0.1).measured([0, 1]) == [1.0, 0.0]


def test_what_is_told_of_the_trials_goes_up_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    worths = Worths(monkeypatch, *np.linspace(0, 1, 12))
    worths.measured([0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11])
    assert worths.shares == sorted(worths.shares)
    assert worths.shares[-1] == 1
    # Four layers have been tried, and four heads are expected.
    assert worths.shares[3] == pytest.approx(0.5)
