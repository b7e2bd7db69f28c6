"""Which passages a gate is fitted on: as many as the machine reads in the time there is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ov_kvcrush.export.gate import measure_gate
from ov_kvcrush.export.subject import Subject
from ov_kvcrush.export.texts.mix import CalibrationTexts
from ov_kvcrush.export.texts.tokens import TextReader
from ov_kvcrush.progress import Silent

SECONDS = 60.0
"""For the gate of a small model; one that needs longer for ``LEAST_PASSAGES`` takes longer."""

MOST_PASSAGES, LEAST_PASSAGES = 80, 10
# The teacher reads a passage twice, with an instruction in between.
_PASSAGE_TOKENS, _LEAST_PASSAGE_TOKENS = 1000, 128
_INSTRUCTION_TOKENS = 64
# One passage in so many is held back to check on, but two at least: one of prose, one of code.
_HELD_ONE_IN, _LEAST_HELD = 12, 2
# The speed is taken from passages that are so much shorter; a long one takes more than its part,
# because attention grows with the square.
_TRIAL_PART, _LONGER = 4, 1.4


@dataclass(frozen=True)
class Passages:
    """Token ids to fit a gate on, and others to check it on."""

    fitted: list[list[int]]
    held: list[list[int]]


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
    own = length - len(reader.lead)
    cut = texts.passages(reader.tokens, own, MOST_PASSAGES + MOST_PASSAGES // _HELD_ONE_IN)
    passages = [reader.lead + passage for passage in cut]
    count = min(len(passages), _affordable(subject, passages[0], seconds))
    num_held = max(_LEAST_HELD, count // _HELD_ONE_IN)
    # Behind the first one: texts are in turns, so that among them is every kind.
    return Passages([passages[0], *passages[1 + num_held : count]], passages[1 : 1 + num_held])


def _affordable(subject: Subject, passage: list[int], seconds: float) -> int:
    """How many passages like this one can be measured in ``seconds``, steps of a sixth apart.

    In steps, so that the same machine comes to the same number most times.
    """
    short = passage[: len(passage) // _TRIAL_PART]
    measure_gate(subject.model, [short], [], Silent())  # loops are compiled and memory is got
    begin = time.monotonic()
    measure_gate(subject.model, [short], [], Silent())
    each = (time.monotonic() - begin) * _TRIAL_PART * _LONGER
    count = LEAST_PASSAGES + _LEAST_HELD
    most = MOST_PASSAGES + MOST_PASSAGES // _HELD_ONE_IN
    while count < most and each * (count + count // 6) <= seconds:
        count += count // 6
    return min(count, most)
