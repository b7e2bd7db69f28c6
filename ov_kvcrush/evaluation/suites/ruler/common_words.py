"""Common words extraction: the ten words of a long list that are in it ten times as often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from random import Random

from ov_kvcrush.evaluation.suites.generating.prose import vocabulary
from ov_kvcrush.evaluation.suites.generating.values import names, take
from ov_kvcrush.evaluation.suites.sample import Question, Sample

TASK = "cwe"

_NUM_COMMON = 10
# In a long list. A short one has as many common words, each less often: about half of its words.
_MOST_TIMES, _RATIO = 30, 10
_SHARE = 2
_LEAST_WORDS = 60
_EXAMPLE_TIMES = 3
_MOST_TOKENS = 120


def common_words(random: Random, amount: int) -> Sample:
    """A numbered list of words behind a worked example; a unit is a word of the list."""
    words = list(vocabulary())
    random.shuffle(words)
    unused = chain(words, names(random, words, words))
    shown, shown_others = _common(unused), take(unused, _NUM_COMMON)
    example = _numbered(random, _EXAMPLE_TIMES * shown + shown_others)
    common = _common(unused)
    others = (word for word in unused if not any(_overlap(word, one) for one in common))
    num_words = _LEAST_WORDS + amount
    times = min(_MOST_TIMES, num_words // (_SHARE * _NUM_COMMON))
    rest = num_words - times * _NUM_COMMON
    entries = times * common + _repeated(others, max(1, times // _RATIO), rest)
    context = (
        "Below is a numbered list of words, some of which are in it more often than others. "
        "Memorize those.\n\n"
        f"An example:\n\n{example}\n\n{_ASKED}\n{_OPENING} {', '.join(shown)}.\n\n"
        f"Now the list that counts:\n\n{_numbered(random, entries)}\n\n"
    )
    question = Question(_ASKED, tuple(common), "contains_all", _MOST_TOKENS, kind=TASK)
    return Sample(TASK, TASK, context, (question,), opening=_OPENING)


_ASKED = f"Which {_NUM_COMMON} words are most common in the list above?"
_OPENING = f"The {_NUM_COMMON} most common words in the list above are"


def _common(words: Iterator[str]) -> list[str]:
    """The next words none of which has another one in it."""
    common: list[str] = []
    for word in words:
        if not any(_overlap(word, one) for one in common):
            common.append(word)
        if len(common) == _NUM_COMMON:
            break
    return common


def _repeated(words: Iterator[str], times: int, count: int) -> list[str]:
    """``count`` words, each of them ``times`` or, the last, fewer times."""
    return list(islice((word for word in words for _ in range(times)), count))


def _overlap(one: str, other: str) -> bool:
    # What is looked for in an answer would be found in a longer word too.
    return one in other or other in one


def _numbered(random: Random, words: Sequence[str]) -> str:
    shuffled = random.sample(words, len(words))
    return " ".join(f"{number}. {word}" for number, word in enumerate(shuffled, start=1))
