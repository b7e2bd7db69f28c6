"""Facts that a text may state, and what is asked about them.

Numbers are those of things, not amounts, which a model may write with commas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ov_kvcrush.evaluation.suites.generating.values import names, numbers, take
from ov_kvcrush.evaluation.suites.generating.words import ADJECTIVES, NOUNS, PEOPLE
from ov_kvcrush.evaluation.suites.sample import Question

_NUM_DIGITS = 5
_MOST_TOKENS = 32


@dataclass(frozen=True)
class Fact:
    """A sentence and a question that it answers.

    Attributes:
        sentence: which states the answer.
        question: about it.
        answer: a few words of the sentence that are nowhere else in the text.
    """

    sentence: str
    question: str
    answer: str

    def ask(self, kind: str) -> Question:
        """The question as a turn of a conversation that goes on with the right answer."""
        return Question(
            text=self.question,
            answers=(self.answer,),
            metric="contains_all",
            most_tokens=_MOST_TOKENS,
            reply=f"{self.answer}.",
            kind=kind,
        )


@dataclass(frozen=True)
class _Pattern:
    """Sentence and question with {person} and {value}, which is a number or a name of two words."""

    sentence: str
    question: str
    is_number: bool = True


_PATTERNS = (
    _Pattern(
        "The safe in {person}'s study opens with the combination {value}.",
        "Which combination opens the safe in {person}'s study?",
    ),
    _Pattern(
        "{person} rents locker {value} at the station.",
        "Which locker does {person} rent at the station?",
    ),
    _Pattern(
        "The parcel for {person} has the tracking number {value}.",
        "Which tracking number does the parcel for {person} have?",
    ),
    _Pattern(
        "{person} drew ticket {value} in the raffle.",
        "Which ticket did {person} draw in the raffle?",
    ),
    _Pattern(
        "The library card with the number {value} is {person}'s.",
        "What is the number of {person}'s library card?",
    ),
    _Pattern(
        "{person}'s boat is called the {value}.", "What is {person}'s boat called?", is_number=False
    ),
    _Pattern(
        "{person} has written a novel with the title The {value}.",
        "What is the title of {person}'s novel?",
        is_number=False,
    ),
    _Pattern(
        "{person} won the race on a horse called the {value}.",
        "On which horse did {person} win the race?",
        is_number=False,
    ),
    _Pattern(
        "The inn that {person} keeps is called the {value}.",
        "What is the inn called that {person} keeps?",
        is_number=False,
    ),
)


def draw_facts(random: Random, count: int) -> tuple[list[Fact], list[Fact]]:
    """``count`` facts of as many patterns, and as many like them about other people.

    The others make sure that a sentence is known by whom it is about.
    """
    patterns = random.sample(_PATTERNS, count)
    people = iter(random.sample(PEOPLE, 2 * count))
    values = numbers(random, _NUM_DIGITS), _two_words(random)
    facts, others = (
        [_fill(pattern, next(people), *values) for pattern in patterns] for _ in range(2)
    )
    return facts, others


def draw_people(random: Random, count: int) -> list[str]:
    """First names, none of which is in the prose."""
    return random.sample(PEOPLE, count)


def _fill(pattern: _Pattern, person: str, values: Iterator[str], two_words: Iterator[str]) -> Fact:
    (value,) = take(values if pattern.is_number else two_words, 1)
    return Fact(
        pattern.sentence.format(person=person, value=value),
        pattern.question.format(person=person),
        value,
    )


def _two_words(random: Random) -> Iterator[str]:
    return (name.title() for name in names(random, ADJECTIVES, NOUNS, joiner=" "))
