"""Elements of rows, each row its own: NumPy's ``take_along_axis``, some times as fast."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.jit import jit

T = TypeVar("T", bound=np.generic)


@jit
def take_in_rows(values: NDArray[T], places: NDArray[np.int32]) -> NDArray[T]:
    """``[R, K]``, in each row the elements of ``values [R, S]`` at its ``places [R / n, K]``.

    n neighbouring rows go by the same places.
    """
    num_rows, group = len(values), len(values) // len(places)
    taken = np.empty((num_rows, places.shape[1]), values.dtype)
    for row in range(num_rows):
        source, wanted, target = values[row], places[row // group], taken[row]
        for i in range(len(wanted)):
            target[i] = source[np.uint32(wanted[i])]
    return taken


@jit
def put_in_rows(values: NDArray[T], places: NDArray[Any]) -> NDArray[T]:
    """The other way: ``[R, K]`` with ``values [R, K]`` at ``places``, each row a permutation."""
    put = np.empty(values.shape, values.dtype)
    for row in range(len(values)):
        source, wanted, target = values[row], places[row], put[row]
        for i in range(len(wanted)):
            target[np.uint32(wanted[i])] = source[i]
    return put
