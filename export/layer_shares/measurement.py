"""Each KV head's share in a budget, measured on one text: the mean of three measures.

One alone misleads. *Surprise* tells what a head's far tokens are worth to the output, but not which
of several that could stand in for each other; *induction* and *count* tell who looks back, but not
what for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from ov_kvcrush.errors import OVKVCrushError, last_line
from ov_kvcrush.export.gate.teacher import Teacher
from ov_kvcrush.export.layer_shares.combination import at_least, head_shares
from ov_kvcrush.export.layer_shares.copying import CopyTrial
from ov_kvcrush.export.layer_shares.count import highest_scores
from ov_kvcrush.export.layer_shares.induction import attention_on_copied
from ov_kvcrush.export.layer_shares.surprise import added_surprise, looks_back
from ov_kvcrush.export.texts.passages import read_tokens
from ov_kvcrush.export.texts.tokens import TextReader
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.eviction.peaks import INSTRUCTION
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, pages_for
from ov_kvcrush.runtime.sequences.sequence import sequence_on_pages

LEAST_SHARE = 0.2
"""Of surprise and induction, what every head gets of an even share."""

# A count of 0 is one of few tokens; and a twentieth is shared out evenly.
_LEAST_COUNT, _EVEN_PART_OF_COUNT = 0.1, 0.05

_TEXT_TOKENS, _LEAST_TEXT_TOKENS = 2048, 192
# Of the time, about, that is left once the text has been read.
_SURPRISE_PART = 0.6


HeadShares = tuple[tuple[float, ...], ...]
"""By layer of the model and KV head, as ``KVPlan.head_shares``."""


def measure_head_shares(
    divided: Callable[[], PagedModel],
    layers: Sequence[LayerGeometry],
    folder: Path,
    context_length: int,
    progress: Progress,
) -> HeadShares:
    """Each KV head's share in the budget of an evicting cache, by what its far tokens are worth.

    Costs reading some 4,000 tokens, and 160 more for each layer and for each head of the layers
    that are worth most.

    Args:
        divided: compiles the model with a cache for each KV head that is measured by itself; it
            gets memory here, and serves nothing else. Only asked where there is something to
            measure.
        layers: geometry by layer of the model.
        folder: holds its tokenizer.
        context_length: tokens it can read, 0 where that is not known.
        progress: is told when there is nothing to measure; an export does not fail for that.

    Returns:
        Empty where it could not be measured.
    """
    if sum(layer.num_kv_heads for layer in layers if not layer.sliding_window) < 2:
        return ()  # nothing to divide: a layer with a sliding window has no budget
    try:
        instruction = TextReader(folder).tokens(INSTRUCTION)
        # Half of the context: where RoPE is at its end, a model copies badly with any cache.
        room = (context_length - len(instruction)) // 2 if context_length else _TEXT_TOKENS
        text = read_tokens(folder)[: min(_TEXT_TOKENS, max(0, room))]
        del text[len(text) // PAGE_SIZE * PAGE_SIZE :]
        if len(text) < _LEAST_TEXT_TOKENS:
            return _not_measured(progress, f"a context of {context_length} tokens is too short")
        shares = _measured(divided(), text, instruction, progress)
    except OVKVCrushError as error:
        return _not_measured(progress, error.message)
    except RuntimeError as error:  # OpenVINO's, of an inference or the tokenizer
        return _not_measured(progress, last_line(error))
    if not shares:
        progress.note("no head was found to look back: all get the same part of a budget")
        return ()
    return tuple(
        tuple(round(shares.get((n, head), 1.0), 3) for head in range(layer.num_kv_heads))
        for n, layer in enumerate(layers)
    )


def _measured(
    model: PagedModel,
    text: list[int],
    instruction: list[int],
    progress: Progress,
) -> dict[tuple[int, int], float]:
    """Shares by layer of the model and head; empty where far tokens do not help to copy."""
    free = [n for n, layer in enumerate(model.layers) if not layer.sliding_window]
    repeated = [*text, *instruction, *text]
    first_page = pages_for(len(repeated))
    model.reserve([first_page + CopyTrial.num_pages()] * len(model.layers))
    # By attention alone: what a value adds is little beside a residual stream that has grown, and
    # the first layers would have most of the highest scores.
    teacher = Teacher(model, instruction, weighs_values=False)
    sequence = sequence_on_pages(repeated, model.layers)
    teacher.read(sequence, len(text))
    trial = CopyTrial(model, text, first_page)
    if not looks_back(trial, free):
        return {}
    progress.advance(0.0)  # what reading the text took says little of the rest
    heads = [model.layers[n].num_kv_heads for n in free]
    parts = [list(part) for _, part in groupby(free, lambda n: model.cache_layers[n].layer)]
    surprise = added_surprise(trial, parts, lambda share: progress.advance(share * _SURPRISE_PART))
    induction = attention_on_copied(trial, free)
    scores = teacher.scores(sequence, len(text))
    count = at_least(highest_scores([scores[n] for n in free]), _LEAST_COUNT, heads)
    progress.advance(1.0)
    measures = [
        (count, _EVEN_PART_OF_COUNT),
        (surprise, LEAST_SHARE),
        (induction, LEAST_SHARE),
    ]
    shares = dict(zip(free, head_shares(measures, heads), strict=True))
    return {
        (cached.layer, head): float(share)
        for n, cached in enumerate(model.cache_layers)
        if n in shares
        for head, share in zip(cached.heads, shares[n], strict=True)
    }


def _not_measured(progress: Progress, reason: str) -> HeadShares:
    progress.note(f"which heads look back could not be measured: {reason}")
    return ()
