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
# A function has about as many tokens as eight of the numbers of a table, which fill up what is
# left where no further function fits.
_NUMBERS_A_FUNCTION = 8


@dataclass(frozen=True)
class _Behavior:
    """What a function does to its argument, in words and in Python, by two numbers a < b."""

    description: str
    argument: str
    result: str
    value: str


_BEHAVIORS = (
    _Behavior("multiplies its argument by {a} and adds {b}", "x: int", "int", "x * {a} + {b}"),
    _Behavior("keeps its argument between {a} and {b}", "x: int", "int", "max({a}, min(x, {b}))"),
    _Behavior(
        "divides its argument by {a} and gives what remains of the quotient after division by {b}",
        "x: int",
        "int",
        "x // {a} % {b}",
    ),
    _Behavior(
        "leaves out all items but those above {a} and below {b}",
        "x: list[int]",
        "list[int]",
        "[y for y in x if {a} < y < {b}]",
    ),
    _Behavior(
        "takes one item in {b}, from index {a} on",
        "x: list[int]",
        "list[int]",
        "x[{a}::{b}]",
    ),
    _Behavior(
        "shortens a text to {a} characters and puts spaces before it up to {b}",
        "x: str",
        "str",
        "x[:{a}].rjust({b})",
    ),
    _Behavior(
        "adds up the last {a} items and divides the sum by {b}",
        "x: list[int]",
        "float",
        "sum(x[-{a}:]) / {b}",
    ),
)


def code_lookup(random: Random, amount: int) -> Sample:
    """Three functions found by what they do, two returned numbers; one a turn, in random order.

    A unit is a number in the table that the module begins with, and eight are a function.
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
        "Read the following Python module. You will be asked several questions about it. Answer "
        f"each of them with a name or a number alone.\n\n```python\nTABLE = {table}\n\n\n"
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
    value = behavior.value.format(a=a, b=b)
    code = f"def {name}({behavior.argument}) -> {behavior.result}:\n    return {value}"
    description = behavior.description.format(a=a, b=b)
    return code, _question(f"Which function {description}?", name)


def _constant(name: str, value: str) -> tuple[str, Question]:
    code = f"def {name}() -> int:\n    return {value}"
    return code, _question(f"Which number does {name}() return?", value)


def _question(text: str, answer: str) -> Question:
    return Question(text, (answer,), "contains_all", _MOST_TOKENS, reply=answer, kind=TASK)
