"""How long a step will still take."""

from __future__ import annotations

import pytest

from ov_kvcrush.progress import TimeLeft, describe_seconds


def test_what_is_left_follows_from_what_it_took() -> None:
    now = [100.0]
    left = TimeLeft(lambda: now[0])
    now[0] += 7
    assert left.at(0.0) is None
    now[0] += 0.5
    assert left.at(0.5) is None  # too early to tell
    now[0] += 9.5
    assert left.at(0.001) is None
    assert left.at(0.25) == pytest.approx(30)
    now[0] += 10
    assert left.at(0.8) == pytest.approx(5)
    assert left.at(1.0) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (130, "2 min 10 s"),
        (3599.9, "1 h"),
        (4800, "1 h 20 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
