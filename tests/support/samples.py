"""Samples that the trained small model answers, and what they are scored by."""

from __future__ import annotations

import numpy as np

from ov_kvcrush.evaluation.suites.sample import Question, Sample

NUM_FLIGHTS = 24


def gates(seed: int = 0) -> dict[str, str]:
    """Gates by flight."""
    generator = np.random.default_rng(seed)
    numbers = generator.choice(np.arange(1000, 9999), NUM_FLIGHTS, replace=False)
    return {
        f"{a}{b}-{number}": f"{gate}{place}"
        for a, b, number, gate, place in zip(
            generator.choice(list("KLMNP"), NUM_FLIGHTS),
            generator.choice(list("ABCDE"), NUM_FLIGHTS),
            numbers,
            generator.choice(list("ABCD"), NUM_FLIGHTS),
            generator.integers(10, 40, NUM_FLIGHTS),
            strict=True,
        )
    }


def flights(
    num_questions: int = 1, seed: int = 0, replies: tuple[str | None, ...] = (None, None, None)
) -> Sample:
    """A text of about 500 tokens that says where flights leave, and questions about some."""
    of_flight = gates(seed)
    said = "\n".join(f"Flight {flight} leaves from gate {g}." for flight, g in of_flight.items())
    questions = tuple(
        Question(
            f"{'' if number else 'Question: '}From which gate does flight {flight} leave?",
            (of_flight[flight],),
            "exact",
            most_tokens=12,
            reply=replies[number],
        )
        for number, flight in enumerate(list(of_flight)[5 : 5 + 5 * num_questions : 5])
    )
    return Sample(f"flights-{seed}", "flights", f"Text:\n{said}\n\n", questions)


def exact(text: str, question: Question) -> float:
    """1 where ``text`` is a right answer, else 0."""
    return float(text.strip() in question.answers)
