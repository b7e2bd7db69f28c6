"""Needles in a haystack: values to be found by their keys, among noise, prose or other needles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from ov_kvcrush.evaluation.suites.generating.placing import place
from ov_kvcrush.evaluation.suites.generating.prose import prose
from ov_kvcrush.evaluation.suites.generating.values import names, numbers, take, uuid_pairs, uuids
from ov_kvcrush.evaluation.suites.generating.words import ADJECTIVES, NOUNS
from ov_kvcrush.evaluation.suites.ruler.noise import noise
from ov_kvcrush.evaluation.suites.sample import Question, Sample

_MOST_TOKENS = 128
_NUM_DIGITS = 7


@dataclass(frozen=True)
class NeedleInHaystack:
    """A task of the family.

    Attributes:
        task: its name.
        haystack: what the needles are in. The needles that others are in have other keys.
        keys: pairs of words, or UUIDs.
        values: numbers of seven digits, or UUIDs.
        num_keys: of the needles, beside those of a haystack of needles.
        num_values: of each key.
        num_asked: keys that are asked for.
    """

    task: str
    haystack: Literal["noise", "prose", "needles"]
    keys: Literal["words", "uuids"] = "words"
    values: Literal["numbers", "uuids"] = "numbers"
    num_keys: int = 1
    num_values: int = 1
    num_asked: int = 1

    def __call__(self, random: Random, amount: int) -> Sample:
        """See :class:`Maker`; a unit is a sentence of noise, a word, or a needle or part of one."""
        keys = names(random, ADJECTIVES, NOUNS) if self.keys == "words" else uuids(random)
        values = numbers(random, _NUM_DIGITS) if self.values == "numbers" else uuids(random)
        needles = {key: take(values, self.num_values) for key in take(keys, self.num_keys)}
        asked = list(needles)[: self.num_asked]
        separator = "\n" if self.haystack == "needles" else " "
        facts = [
            (random.random(), f"{separator}{self._needle(key, value)}")
            for key in needles
            for value in needles[key]
        ]
        haystack = place(self._haystack(random, amount, keys, values), facts)
        many = self.num_asked * self.num_values > 1
        what = f"{self._noun}s of {_listed(asked)}" if many else f"{self._noun} of {asked[0]}"
        question = Question(
            text=f"What {'are all' if many else 'is'} the magic {what} in the text above?",
            answers=tuple(value for key in asked for value in needles[key]),
            metric="contains_all",
            most_tokens=_MOST_TOKENS,
            kind=self.task,
        )
        intro = (
            f"Magic {self._noun}s are hidden in the following text. Memorize them: you will be "
            "asked for them afterwards."
        )
        opening = f"The magic {what} in the text above {'are' if many else 'is'}"
        context = f"{intro}\n\n{haystack}\n\n"
        return Sample(self.task, self.task, context, (question,), opening=opening)

    @property
    def _noun(self) -> str:
        return "number" if self.values == "numbers" else "UUID"

    def _needle(self, key: str, value: str) -> str:
        return f"One of the magic {self._noun}s of {key} is {value}."

    def _haystack(
        self, random: Random, amount: int, keys: Iterator[str], values: Iterator[str]
    ) -> list[str]:
        if self.haystack == "noise":
            return noise(amount)
        if self.haystack == "prose":
            return prose(random, amount)
        if self.keys == self.values == "uuids":
            pairs = uuid_pairs(keys, values, amount)
        else:
            pairs = [(next(keys), next(values)) for _ in range(amount)]
        return [f"\n{self._needle(key, value)}" for key, value in pairs]


def _listed(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
