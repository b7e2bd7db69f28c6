"""Which layers look far back: measured by taking the far tokens from one layer at a time.

What is added to the surprise of copied passages when a layer sees only the beginning and the end of
the text is what that layer's cache of the rest is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.export.layer_shares.copying import CopyTrial
from ov_kvcrush.export.likelihood import negative_log_likelihood

# Nats a token. A smaller difference is noise, which shares in proportion would blow up.
_LEAST_NATS = 0.01


def looks_back(trial: CopyTrial, layers: Sequence[int]) -> bool:
    """Whether far tokens help the model to copy, with all ``layers`` together."""
    return _surprise(trial, layers) - _surprise(trial) >= _LEAST_NATS


def added_surprise(
    trial: CopyTrial, layers: Sequence[int], advance: Callable[[float], None]
) -> list[NDArray[np.float64]]:
    """What the far tokens of each of ``layers`` are worth, in nats a token.

    Where heads in several layers can stand in for each other, each layer looks worth less than they
    are together.

    Args:
        advance: is told which share of the layers is done.

    Returns:
        By layer ``[1]``, of all its heads together; 0 where no layer stands out of the noise.
    """
    unharmed = _surprise(trial)
    added = np.zeros(len(layers))
    for place, n in enumerate(layers):
        added[place] = _surprise(trial, [n]) - unharmed
        advance((place + 1) / len(layers))
    # Seeing less never helps; where it seems to, that shows how large the noise is.
    if added.max() < max(_LEAST_NATS, -added.min()):
        added[:] = 0
    return list(np.maximum(added, 0)[:, None])


def _surprise(trial: CopyTrial, blind: Collection[int] = ()) -> float:
    """Mean negative log likelihood, in nats, of what has to be copied."""
    following = np.array([passage.following for passage in trial.passages]).ravel()
    return negative_log_likelihood(trial.read(blind).logits, following)
