"""Values looked up by key in a JSON object of UUIDs: nothing in it says what will be asked for."""

from __future__ import annotations

import json
from random import Random

from ov_kvcrush.evaluation.suites.generating.placing import spread_depths
from ov_kvcrush.evaluation.suites.generating.values import take, uuid_pairs, uuids
from ov_kvcrush.evaluation.suites.sample import Question, Sample

TASK = "key_value"

_NUM_QUESTIONS = 5
_MOST_TOKENS = 64


def key_value(random: Random, amount: int) -> Sample:
    """Five of the pairs, in random order one a turn; a unit is a group of a UUID's digits."""
    values = uuids(random)
    asked = list(zip(take(values, _NUM_QUESTIONS), take(values, _NUM_QUESTIONS), strict=True))
    depths = spread_depths(random, _NUM_QUESTIONS)
    order = random.sample(asked, len(asked))
    pairs = uuid_pairs(values, values, amount)
    num_others = len(pairs)
    for depth, pair in zip(reversed(depths), asked, strict=True):
        pairs.insert(round(depth * num_others), pair)
    context = (
        "The following JSON object holds values by their keys. You will be asked for some of them. "
        f"Answer with the value alone.\n\n{json.dumps(dict(pairs), indent=1)}\n\n"
    )
    questions = tuple(
        Question(
            text=f'What is the value of the key "{key}"?',
            answers=(value,),
            metric="contains_all",
            most_tokens=_MOST_TOKENS,
            reply=value,
            kind=TASK,
        )
        for key, value in order
    )
    return Sample(TASK, TASK, context, questions)
