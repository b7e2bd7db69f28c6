"""How likely a model finds the tokens that follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def negative_log_likelihood(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
    """Mean over the rows of ``logits [n, vocab]``, each of which should tell one of ``tokens``."""
    largest = logits.max(axis=1, keepdims=True)
    totals = largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=1, dtype=np.float64))
    return float((totals - logits[np.arange(len(tokens)), tokens]).mean())
