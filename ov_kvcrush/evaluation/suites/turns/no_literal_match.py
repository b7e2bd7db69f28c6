"""Facts in prose that are asked about in other words, which only knowledge of the world connects.

A cache that is cut by what looks alike keeps nothing for such questions.
"""

from __future__ import annotations

from random import Random

from ov_kvcrush.evaluation.suites.generating.placing import place, spread_depths
from ov_kvcrush.evaluation.suites.generating.prose import prose
from ov_kvcrush.evaluation.suites.sample import Sample
from ov_kvcrush.evaluation.suites.turns.associations import ASSOCIATIONS, content_words
from ov_kvcrush.evaluation.suites.turns.facts import Fact, draw_people
from ov_kvcrush.evaluation.suites.turns.needles import INTRO

TASK = "no_literal_match"

_NUM_QUESTIONS = 5


def no_literal_match(random: Random, amount: int) -> Sample:
    """Five people, asked for in random order one a turn; a unit is a word of prose.

    Sentences of the prose with a word that a question is about are left out.
    """
    drawn = zip(
        random.sample(ASSOCIATIONS, _NUM_QUESTIONS),
        draw_people(random, _NUM_QUESTIONS),
        strict=True,
    )
    facts = [
        Fact(association.sentence.format(person=person), association.question, person)
        for association, person in drawn
    ]
    depths = spread_depths(random, len(facts))
    order = random.sample(facts, len(facts))
    asked = {word for fact in facts for word in content_words(fact.question)}
    text = place(
        prose(random, amount, without=asked),
        [(depth, f" {fact.sentence}") for depth, fact in zip(depths, facts, strict=True)],
    )
    questions = tuple(fact.ask(TASK) for fact in order)
    return Sample(TASK, TASK, f"{INTRO}\n\n{text}\n\n", questions)
