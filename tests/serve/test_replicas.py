"""Which replica a request is sent to, and how many there are; without Ray."""

from __future__ import annotations

from collections import Counter

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.serve.replicas.ranking import rank
from ov_kvcrush.serve.replicas.settings import ReplicaSettings

REPLICAS = ["a1b2", "c3d4", "e5f6", "g7h8"]
SESSIONS = [f"session {n}" for n in range(1000)]


def best(session: str, replicas: list[str], **loads: int) -> str:
    return rank(session, "request", replicas, loads, spill_at=2)[0]


def test_a_session_has_one_replica_in_whatever_order_they_are_told() -> None:
    for session in SESSIONS[:20]:
        others = rank(session, "another request", REPLICAS[::-1], {}, spill_at=2)
        assert others == rank(session, "request", REPLICAS, {}, spill_at=2)
        assert sorted(others) == REPLICAS


def test_sessions_are_spread_over_all_replicas() -> None:
    counts = Counter(best(session, REPLICAS) for session in SESSIONS)
    assert all(200 <= counts[name] <= 300 for name in REPLICAS)


def test_a_replica_that_goes_or_comes_moves_its_own_sessions_alone() -> None:
    fewer = REPLICAS[:-1]
    for session in SESSIONS:
        before, after = best(session, REPLICAS), best(session, fewer)
        assert after == before or before == REPLICAS[-1]


def test_a_session_whose_replica_is_full_goes_to_its_next_one_and_comes_back() -> None:
    order = rank("monday", "request", REPLICAS, {}, spill_at=2)
    own, second, third, _ = order
    assert best("monday", REPLICAS, **{own: 1}) == own
    assert best("monday", REPLICAS, **{own: 2}) == second
    assert best("monday", REPLICAS, **{own: 2, second: 5}) == third


def test_where_all_are_full_its_own_one_says_so() -> None:
    order = rank("monday", "request", REPLICAS, {}, spill_at=2)
    loads = {name: 9 - n for n, name in enumerate(order)}
    assert rank("monday", "request", REPLICAS, loads, spill_at=2) == order


def test_without_a_session_it_goes_to_whoever_has_least_to_do() -> None:
    loads = {"a1b2": 1, "c3d4": 0, "e5f6": 3, "g7h8": 1}
    assert rank("", "request", REPLICAS, loads, spill_at=2)[0] == "c3d4"
    idle = Counter(rank("", f"request {n}", REPLICAS, {}, spill_at=2)[0] for n in range(1000))
    assert all(200 <= idle[name] <= 300 for name in REPLICAS)


def test_a_key_may_be_any_text() -> None:
    for key in ("ü", "\udcff", "a:b", " " * 512):
        assert sorted(rank(key, "request", REPLICAS, {}, spill_at=2)) == REPLICAS


@pytest.mark.parametrize(
    "wrong", [{"min_replicas": 0}, {"threads": 0}, {"min_replicas": 3, "max_replicas": 2}]
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ReplicaSettings(**wrong)


def test_all_replicas_together_take_so_many_processors() -> None:
    bounds = ReplicaSettings(1, 3, threads=4)
    assert (bounds.num_processors, bounds.is_fixed) == (12, False)
    assert ReplicaSettings(2, 2).is_fixed
