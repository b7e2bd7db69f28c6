"""The first of several strings in a text, however the text comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.runtime.generation.stop_strings import Match, StopStrings


def test_nothing_is_found_where_nothing_is() -> None:
    strings = StopStrings({"abc"})
    assert strings.push("ab ab") is None
    assert strings.unsettled_from == 3
    assert strings.push("x") is None
    assert strings.unsettled_from == 6
    assert strings.end() is None


def test_what_overlaps_itself_is_found() -> None:
    assert StopStrings({"aab"}).push("aaab") == Match(1, 4)
    assert StopStrings({"abab", "bb"}).push("ababb") == Match(0, 4)


def test_of_those_that_begin_together_the_shortest_ends_the_text() -> None:
    assert StopStrings({"abc", "ab"}).push("xabc") == Match(1, 3)


def test_a_string_waits_for_one_that_began_before_it() -> None:
    strings = StopStrings({"bc", "abcd"})
    assert strings.push("xabc") is None
    assert strings.unsettled_from == 1
    assert strings.push("d") == Match(1, 5)
    strings = StopStrings({"bc", "abcd"})
    assert strings.push("xabcx") == Match(2, 4)
    strings = StopStrings({"bc", "abcd"})
    assert strings.push("xabc") is None
    assert strings.end() == Match(2, 4)


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    strings=st.sets(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_it_is_the_first_that_a_search_through_the_whole_text_finds(
    pieces: list[str], strings: set[str]
) -> None:
    search = StopStrings(strings)
    text, settled = "", 0
    for piece in pieces:
        if search.push(piece) is None:
            text += piece
            held = len(text) - search.unsettled_from
            assert settled <= search.unsettled_from
            settled = search.unsettled_from
            longest = max(
                n
                for n in range(min(len(text), 5) + 1)
                if n == 0 or any(one.startswith(text[-n:]) and one != text[-n:] for one in strings)
            )
            # Exactly what may become one; more only behind a whole one that waits.
            assert held == longest or any(one in text[-held:] for one in strings)
    whole = "".join(pieces)
    found = min(
        (Match(whole.find(one), whole.find(one) + len(one)) for one in strings if one in whole),
        default=None,
    )
    assert search.end() == found
