"""Facts in prose, and one asked about in each turn; a summary may be asked for before them."""

from __future__ import annotations

from random import Random

from ov_kvcrush.evaluation.suites.generating.placing import place, spread_depths
from ov_kvcrush.evaluation.suites.generating.prose import prose
from ov_kvcrush.evaluation.suites.sample import UNSCORED, Question, Sample
from ov_kvcrush.evaluation.suites.turns.facts import Fact, draw_facts

NEEDLES, SUMMARY_WITH_NEEDLES = "needles", "summary_with_needles"

INTRO = (
    "Read the following text. You will be asked several questions about it. Answer each of them "
    "in a few words."
)

_NUM_QUESTIONS = 5
_NUM_SUMMARY_SENTENCES = 3
_MOST_SUMMARY_TOKENS = 128
# Of a sentence in a summary.
_FEWEST_WORDS, _MOST_WORDS = 6, 25


def needles(random: Random, amount: int) -> Sample:
    """Five facts, in random order one a turn; a unit is a word of prose."""
    facts, others = draw_facts(random, _NUM_QUESTIONS)
    _, context = _hide(random, amount, facts, others)
    questions = tuple(fact.ask(NEEDLES) for fact in facts)
    return Sample(NEEDLES, NEEDLES, context, questions)


def summary_with_needles(random: Random, amount: int) -> Sample:
    """A summary, which is not scored, and then four facts that hardly belong into it.

    The conversation goes on with a summary made of the prose's own sentences, so that all later
    turns have the same before them, whoever answers.
    """
    facts, others = draw_facts(random, _NUM_QUESTIONS - 1)
    pieces, context = _hide(random, amount, facts, others)
    summary = Question(
        text=f"First of all, summarize the text above in {_NUM_SUMMARY_SENTENCES} sentences.",
        answers=(),
        metric=UNSCORED,
        most_tokens=_MOST_SUMMARY_TOKENS,
        reply=_summary(pieces),
        kind=SUMMARY_WITH_NEEDLES,
    )
    questions = (summary, *(fact.ask(SUMMARY_WITH_NEEDLES) for fact in facts))
    return Sample(SUMMARY_WITH_NEEDLES, SUMMARY_WITH_NEEDLES, context, questions)


def _hide(
    random: Random, amount: int, facts: list[Fact], others: list[Fact]
) -> tuple[list[str], str]:
    """Pieces of prose, and the context with the facts among them."""
    # Each part of the text has one of the facts, and in its order none is told by its question's.
    hidden = random.sample(facts, len(facts))
    placed = list(zip(spread_depths(random, len(hidden)), hidden, strict=True))
    placed += [(random.random(), other) for other in others]
    pieces = prose(random, amount)
    text = place(pieces, [(depth, f" {fact.sentence}") for depth, fact in placed])
    return pieces, f"{INTRO}\n\n{text}\n\n"


def _summary(pieces: list[str]) -> str:
    """A sentence each from the beginning, the middle and the end of the prose."""
    sentences = [piece.strip() for piece in pieces]
    fitting = [text for text in sentences if _FEWEST_WORDS <= len(text.split()) <= _MOST_WORDS]
    parts = _NUM_SUMMARY_SENTENCES
    found = [fitting[part * len(fitting) // parts] for part in range(min(parts, len(fitting)))]
    return " ".join(found) or "It is about a few people and what is theirs."
