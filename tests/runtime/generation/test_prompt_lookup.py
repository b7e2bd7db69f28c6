"""The look-up of drafts, against a search through the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.runtime.generation.prompt_lookup import (
    _MOST_PLACES,
    NO_DRAFT,
    Draft,
    PromptLookup,
)

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def searched(tokens: list[int], longest: int, count: int) -> Draft:
    """The same, found by comparing every place."""
    least, end = min(2, longest), len(tokens)
    places = [p for p in range(least, end) if tokens[p - least : p] == tokens[end - least :]]
    best, match = -1, 0
    for place in reversed(places[-_MOST_PLACES:]):
        length = 0
        while (
            length < min(longest, place) and tokens[place - length - 1] == tokens[end - 1 - length]
        ):
            length += 1
        if length > match:
            best, match = place, length
    if best < 0 or count < 1:
        return NO_DRAFT
    text = list(tokens)
    for n in range(count):
        text.append(text[best + n])
    return Draft(tuple(text[end:]), match)


@given(TEXTS, st.integers(1, 6), st.integers(0, 9), st.data())
def test_a_draft_is_what_followed_the_longest_match(
    tokens: list[int], longest: int, count: int, data: st.DataObject
) -> None:
    lookup, taken = PromptLookup(longest), 0
    while taken < len(tokens):
        more = data.draw(st.integers(1, len(tokens) - taken))
        lookup.extend(tokens[taken : taken + more])
        taken += more
        assert lookup.num_taken == taken
        assert lookup.draft(count) == searched(tokens[:taken], longest, count)


@given(TEXTS, st.integers(1, 8))
def test_of_a_long_sequence_the_newest_tokens_are_known(tokens: list[int], known: int) -> None:
    lookup, begin = PromptLookup(longest=4, known=known), 0
    for taken in range(1, len(tokens) + 1):
        lookup.extend(tokens[taken - 1 : taken])
        if taken - begin > 2 * known:
            begin = taken - known
        assert lookup.draft(5) == searched(tokens[begin:taken], 4, 5)


def test_a_text_that_repeats_itself_is_drafted_on_and_on() -> None:
    lookup = PromptLookup()
    lookup.extend([9, 1, 2, 3, 1, 2, 3, 1, 2])
    assert lookup.draft(7).tokens == (3, 1, 2, 3, 1, 2, 3)


def test_nothing_is_drafted_behind_what_never_stood_before() -> None:
    lookup = PromptLookup()
    assert lookup.draft(4) == NO_DRAFT
    lookup.extend([1, 2, 3, 1, 4])
    assert lookup.draft(4) == NO_DRAFT
    lookup.extend([2, 3])
    assert lookup.draft(0) == NO_DRAFT
    assert lookup.draft(2).tokens == (1, 4)
