"""Which heads look far back: measured by taking the far tokens from some heads at a time.

What is added to the surprise of copied passages when a head sees only the beginning and the end of
the text is what that head's cache of the rest is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.export.layer_shares.copying import CopyTrial
from ov_kvcrush.export.likelihood import negative_log_likelihood

Doubles = NDArray[np.float64]

# Nats a token. A smaller difference is noise, which shares in proportion would blow up.
_LEAST_NATS = 0.01
# Heads are only tried one by one in layers that together have so much of what all are worth: in the
# others there is little to tell apart.
_TAKEN_APART = 0.9
# So many of all heads that will be, as far as is known before layers have been tried.
_EXPECTED_PART = 1 / 3


def looks_back(trial: CopyTrial, layers: Sequence[int]) -> bool:
    """Whether far tokens help the model to copy, with all ``layers`` together."""
    return _surprise(trial, layers) - _surprise(trial) >= _LEAST_NATS


def added_surprise(
    trial: CopyTrial, parts: Sequence[Sequence[int]], advance: Callable[[float], None]
) -> list[Doubles]:
    """What the far tokens of each cache layer are worth, in nats a token.

    Where heads can stand in for each other, each looks worth less than they are together.

    Args:
        trial: of a model with several cache layers in a layer.
        parts: by layer of the model, its cache layers.
        advance: is told which share of the trials is done.

    Returns:
        By cache layer of ``parts``, in their order, ``[1]``: of all its heads together. 0 where no
        layer stands out of the noise.
    """
    unharmed = _surprise(trial)
    several = [place for place, part in enumerate(parts) if len(part) > 1]
    expected = sum(len(parts[place]) for place in several) * _EXPECTED_PART
    layers_part = len(parts) / (len(parts) + expected)
    by_layer = np.zeros(len(parts))
    for place, part in enumerate(parts):
        by_layer[place] = _surprise(trial, part) - unharmed
        advance(layers_part * (place + 1) / len(parts))
    # Seeing less never helps; where it seems to, that shows how large the noise is.
    if by_layer.max() < max(_LEAST_NATS, -by_layer.min()):
        by_layer[:] = 0
    by_layer = np.maximum(by_layer, 0)
    apart = [place for place in _worth_most(by_layer) if place in several]
    trials = [(place, n) for place in apart for n in range(len(parts[place]))]
    found = [
        np.full(len(part), worth / len(part)) for part, worth in zip(parts, by_layer, strict=True)
    ]
    for done, (place, n) in enumerate(trials, start=1):
        found[place][n] = max(0.0, _surprise(trial, [parts[place][n]]) - unharmed)
        advance(layers_part + (1 - layers_part) * done / len(trials))
    advance(1.0)
    return list(np.concatenate(found)[:, None])


def _worth_most(worth: Doubles) -> list[int]:
    """The fewest places that have ``_TAKEN_APART`` of all ``worth``, in ascending order."""
    falling = np.argsort(-worth, kind="stable")
    before = np.cumsum(worth[falling]) - worth[falling]
    return sorted(int(place) for place in falling[before < _TAKEN_APART * worth.sum()])


def _surprise(trial: CopyTrial, blind: Collection[int] = ()) -> float:
    """Mean negative log likelihood, in nats, of what has to be copied."""
    following = np.array([passage.following for passage in trial.passages]).ravel()
    return negative_log_likelihood(trial.read(blind).logits, following)
