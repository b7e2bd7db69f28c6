"""Frequent words extraction: the three most frequent of made-up words that a zeta law counts."""

from __future__ import annotations

import math
from random import Random

from ov_kvcrush.evaluation.suites.generating.values import distinct, take
from ov_kvcrush.evaluation.suites.sample import Question, Sample

TASK = "fwe"

# The word of rank k is in the text N k^-2 / zeta(2) times; the first one is these dots.
_DOTS = "...."
_ZETA = math.pi**2 / 6
_NUM_ASKED = 3
# Of fewer words the third one asked for and the one behind it can be equally frequent.
_LEAST_WORDS = 80
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"
_SYLLABLES = 3
_MOST_TOKENS = 50


def frequent_words(random: Random, amount: int) -> Sample:
    """A text of made-up words; a unit is a word."""
    coded = distinct(lambda: "".join(_syllable(random) for _ in range(_SYLLABLES)))
    asked = take(coded, _NUM_ASKED)
    num_words = _LEAST_WORDS + amount
    ranks = range(1, math.isqrt(int(num_words / _ZETA)) + 1)
    times = [int(num_words / (rank**2 * _ZETA)) for rank in ranks]
    words = [_DOTS, *asked, *take(coded, len(times) - _NUM_ASKED - 1)]
    text = [word for word, count in zip(words, times, strict=True) for _ in range(count)]
    # The law's tail: words of less than one occurrence each.
    text += take(coded, num_words - len(text))
    random.shuffle(text)
    context = (
        "Read the following coded text and keep track of how often each coded word is in it.\n\n"
        f"{' '.join(text)}\n\n"
    )
    question = Question(
        text=f"Which {_NUM_ASKED} coded words are most frequent in the text above? The dots "
        f"'{_DOTS}' do not count.",
        answers=tuple(asked),
        metric="contains_all",
        most_tokens=_MOST_TOKENS,
        kind=TASK,
    )
    opening = f"The {_NUM_ASKED} most frequent coded words in the text above are"
    return Sample(TASK, TASK, context, (question,), opening=opening)


def _syllable(random: Random) -> str:
    return random.choice(_CONSONANTS) + random.choice(_VOWELS)
