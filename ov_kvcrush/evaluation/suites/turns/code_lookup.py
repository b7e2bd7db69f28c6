"""Functions of a long Python module: which one does this, and what does that one return?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from random import Random

from ov_kvcrush.evaluation.suites.generating.placing import place, spread_depths
from ov_kvcrush.evaluation.suites.generating.values import names, numbers
from ov_kvcrush.evaluation.suites.generating.words import NOUNS, VERBS
from ov_kvcrush.evaluation.suites.sample import Question, Sample

TASK = "code_lookup"

_NUM_BY_BEHAVIOR, _NUM_CONSTANTS = 3, 2
_MOST_TOKENS = 32
# A function has about as many tokens as ten numbers of a table, which fill up what is left where no
# further function fits.
_NUMBERS_A_FUNCTION = 10


@dataclass(frozen=True)
class _Behavior:
    """What a function does to its argument, by two numbers a < b.

    Attributes:
        description: in a question about it.
        docstring: its own.
        argument, result: their types.
        value: in Python.
    """

    description: str
    docstring: str
    argument: str
    result: str
    value: str


_BEHAVIORS = (
    _Behavior(
        "multiplies a number by {a} and then adds {b}",
        "Scale a number by {a} and shift it by {b}.",
        "int",
        "int",
        "x * {a} + {b}",
    ),
    _Behavior(
        "keeps a number between {a} and {b}",
        "Clamp a number: {a} at least, {b} at most.",
        "int",
        "int",
        "max({a}, min(x, {b}))",
    ),
    _Behavior(
        "divides a number by {a} and takes the quotient modulo {b}",
        "Give the digit to base {b} that counts units of {a}.",
        "int",
        "int",
        "x // {a} % {b}",
    ),
    _Behavior(
        "leaves out all items but those above {a} and below {b}",
        "Filter items: more than {a}, less than {b}.",
        "list[int]",
        "list[int]",
        "[y for y in x if {a} < y < {b}]",
    ),
    _Behavior(
        "takes every item whose index is {a} plus a multiple of {b}",
        "Start at index {a} and go on in steps of {b}.",
        "list[int]",
        "list[int]",
        "x[{a}::{b}]",
    ),
    _Behavior(
        "shortens a text to {a} characters and puts spaces before it up to {b}",
        "Cut to a width of {a} and align right in {b} columns.",
        "str",
        "str",
        "x[:{a}].rjust({b})",
    ),
    _Behavior(
        "adds up the last {a} items and divides the sum by {b}",
        "Total the {a} items at the end, in parts of {b}.",
        "list[int]",
        "float",
        "sum(x[-{a}:]) / {b}",
    ),
)


def code_lookup(random: Random, amount: int) -> Sample:
    """Three functions found by what they do, two returned numbers; one a turn, in random order.

    A unit is a number in the table that the module begins with, and ten are a function.
    """
    functions, constants = names(random, VERBS, NOUNS, joiner="_"), numbers(random, 5)
    behaviors = _behaviors(random)
    asked = [
        *(_by_behavior(next(functions), *next(behaviors)) for _ in range(_NUM_BY_BEHAVIOR)),
        *(_constant(next(functions), next(constants)) for _ in range(_NUM_CONSTANTS)),
    ]
    random.shuffle(asked)
    depths = spread_depths(random, len(asked))
    order = random.sample(asked, len(asked))
    num_others, table_size = divmod(amount, _NUMBERS_A_FUNCTION)
    table = [random.randrange(10, 100) for _ in range(_NUMBERS_A_FUNCTION)][:table_size]
    others = (
        _by_behavior(next(functions), *next(behaviors))
        if random.random() < _NUM_BY_BEHAVIOR / len(asked)
        else _constant(next(functions), next(constants))
        for _ in range(num_others)
    )
    module = place(
        [f"\n\n\n{code}" for code, _ in others],
        [(depth, f"\n\n\n{code}") for depth, (code, _) in zip(depths, asked, strict=True)],
    )
    context = (
        "Read the following Python module. You will be asked several questions about it.\n\n"
        f"```python\nTABLE = {table}\n\n\n"
        f"{module}\n```\n\n"
    )
    return Sample(TASK, TASK, context, tuple(question for _, question in order))


def _behaviors(random: Random) -> Iterator[tuple[_Behavior, str, str]]:
    """Behaviors and their two numbers, each pair of numbers once."""
    seen: set[tuple[int, int]] = set()
    for behavior in cycle(random.sample(_BEHAVIORS, len(_BEHAVIORS))):
        low, high = 0, 0
        while low == high or (low, high) in seen:
            low, high = sorted((random.randrange(2, 1000), random.randrange(2, 1000)))
        seen.add((low, high))
        yield behavior, str(low), str(high)


def _by_behavior(name: str, behavior: _Behavior, a: str, b: str) -> tuple[str, Question]:
    docstring, value = (text.format(a=a, b=b) for text in (behavior.docstring, behavior.value))
    code = (
        f"def {name}(x: {behavior.argument}) -> {behavior.result}:\n"
        f'    """{docstring}"""\n'
        f"    return {value}"
    )
    description = behavior.description.format(a=a, b=b)
    return code, _question(f"Which function {description}? Answer with its name.", name)


def _constant(name: str, value: str) -> tuple[str, Question]:
    code = f'def {name}() -> int:\n    """Give a constant."""\n    return {value}'
    return code, _question(f"Which number does {name}() return? Answer with the number.", value)


def _question(text: str, answer: str) -> Question:
    return Question(text, (answer,), "contains_all", _MOST_TOKENS, reply=answer, kind=TASK)
