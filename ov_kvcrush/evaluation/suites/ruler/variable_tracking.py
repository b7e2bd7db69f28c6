"""Variable tracking: which variables hold a value that was handed from one to the next."""

from __future__ import annotations

from random import Random
from string import ascii_uppercase

from ov_kvcrush.evaluation.suites.generating.placing import place
from ov_kvcrush.evaluation.suites.generating.values import distinct, numbers, take
from ov_kvcrush.evaluation.suites.ruler.noise import noise
from ov_kvcrush.evaluation.suites.sample import Question, Sample

TASK = "vt"

_NUM_HOPS = 4
_NAME_LETTERS, _NUM_DIGITS = 5, 5
_EXAMPLE_SENTENCES = 10
_MOST_TOKENS = 30


def variable_tracking(random: Random, amount: int) -> Sample:
    """One chain of four hops in noise, behind a worked example; a unit is a sentence of noise."""
    variables = distinct(lambda: "".join(random.choices(ascii_uppercase, k=_NAME_LETTERS)))
    values = numbers(random, _NUM_DIGITS)
    shown, asked = take(variables, _NUM_HOPS + 1), take(variables, _NUM_HOPS + 1)
    shown_value, asked_value = take(values, 2)
    example = _text(random, shown, shown_value, _EXAMPLE_SENTENCES)
    text = _text(random, asked, asked_value, amount)
    context = (
        "Memorize how values are handed from variable to variable in the text below.\n\n"
        f"An example:\n\n{example}\n\n{_asked(shown_value)}\n"
        f"{_opening(shown_value)} {', '.join(shown)}.\n\n"
        f"Now the text that counts:\n\n{text}\n\n"
    )
    question = Question(_asked(asked_value), tuple(asked), "contains_all", _MOST_TOKENS, kind=TASK)
    return Sample(TASK, TASK, context, (question,), opening=_opening(asked_value))


def _text(random: Random, variables: list[str], value: str, amount: int) -> str:
    sources = [value, *(f"VAR {name}" for name in variables)]
    lines = [f" VAR {name} = {source}." for name, source in zip(variables, sources, strict=False)]
    depths = sorted(random.random() for _ in lines)
    return place(noise(amount), list(zip(depths, lines, strict=True)))


def _asked(value: str) -> str:
    return f"Which variables have the value {value} in the text above? Name all of them."


def _opening(value: str) -> str:
    return f"In the text above, {_NUM_HOPS + 1} variables have the value {value}:"
