"""Which passages a gate is fitted on: as many as the machine reads in the time there is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ov_kvcrush.export.gate import measure_gate
from ov_kvcrush.export.subject import Subject
from ov_kvcrush.export.texts.mix import CalibrationTexts
from ov_kvcrush.export.texts.tokens import TextReader
from ov_kvcrush.progress import Silent
from ov_kvcrush.runtime.eviction.peaks import INSTRUCTION

SECONDS = 90.0
"""For the gate of a small model; one that needs longer for the fewest passages takes longer."""

NUM_PASSAGES = (10, 20, 40, 80)
"""To fit on. Few numbers and far apart, so that a machine comes to the same one most times."""

# The teacher reads a passage twice, with an instruction in between.
_PASSAGE_TOKENS, _LEAST_PASSAGE_TOKENS = 1000, 128
_INSTRUCTION_TOKENS = 64
# One passage in so many is held back to check on, but two at least: one of prose, one of code.
_HELD_ONE_IN, _LEAST_HELD = 12, 2
# The speed is taken from passages that are so much shorter. A long one takes a little less than its
# part: what is solved at the end is solved once.
_TRIAL_PART = 4


@dataclass(frozen=True)
class Passages:
    """Token ids to fit a gate on, others to check it on, and what asks to repeat one."""

    fitted: list[list[int]]
    held: list[list[int]]
    instruction: list[int]


def passage_length(context_length: int) -> int:
    """Tokens of a passage for a model of that context; 0 where it is too short, or 0 for any."""
    if not context_length:
        return _PASSAGE_TOKENS
    length = min(_PASSAGE_TOKENS, (context_length - _INSTRUCTION_TOKENS) // 2)
    return length if length >= _LEAST_PASSAGE_TOKENS else 0


def choose_passages(
    subject: Subject, texts: CalibrationTexts, length: int, seconds: float = SECONDS
) -> Passages:
    """As many passages of ``texts`` as a gate is fitted on within ``seconds``, by a trial.

    Args:
        subject: to be measured.
        texts: to take them from.
        length: tokens of each.
        seconds: that fitting and checking may take; it takes more for the least there must be.
    """
    reader = TextReader(subject.folder)
    most = NUM_PASSAGES[-1] + _num_held(NUM_PASSAGES[-1])
    cut = texts.passages(reader.tokens, length - len(reader.lead), most)
    passages = [reader.lead + passage for passage in cut]
    instruction = reader.tokens(INSTRUCTION)
    each = _seconds_each(subject, passages[0], instruction)
    fitting = [n for n in NUM_PASSAGES if each * (n + _num_held(n)) <= seconds]
    count = max(fitting, default=NUM_PASSAGES[0])
    held = range(1, 1 + _num_held(count))
    # Texts are in turns, so that there is every kind among those behind the first.
    fitted = [passage for n, passage in enumerate(passages) if n not in held]
    checked = [passages[n] for n in held if n < len(passages)]
    return Passages(fitted[:count], checked, instruction)


def _num_held(count: int) -> int:
    return max(_LEAST_HELD, count // _HELD_ONE_IN)


def _seconds_each(subject: Subject, passage: list[int], instruction: list[int]) -> float:
    """How long a gate takes for a passage as long as this one."""
    short = passage[: len(passage) // _TRIAL_PART]
    for _ in range(2):  # at first, loops are compiled and memory is got
        begin = time.monotonic()
        measure_gate(subject.model, [short], [], Silent(), instruction=instruction)
    return (time.monotonic() - begin) * _TRIAL_PART
