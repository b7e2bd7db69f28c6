"""The basis a head's values are stored in: one whose rounding to few bits costs the output least.

Attention is linear in the values. With an invertible ``A`` for each KV head, values ``A^T v`` may
be stored and the output projection given ``O A^-T`` instead: the same function. What differs is
what rounding does. A token's values share a scale, so the noise of each grows with the energy of
all, ``tr(A^T S A)`` for second moments ``S``, and reaches the output by ``tr(A^-1 M A^-T)`` with
``M`` the sum of the query heads' ``O^T O``. Their product is least, ``(sum of w)^2``, in the
coordinates of balanced truncation (Moore 1981), where both matrices are one diagonal ``w``, the
square roots of the eigenvalues of ``S M``. A Hadamard transform behind it spreads ``w`` evenly (as
in QuaRot, Ashkboos et al. 2024) and does one thing more: what all values of a group have in common
moves their minimum and maximum alike, and so costs nothing to store. The largest components are
put there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# Of the diagonal, added to it: moments of few tokens are not quite those of others. Relative to
# each channel, so that the result does not depend on the scales of channels.
_REGULARIZATION = 1e-2
# For channels that are always zero, relative to the mean of all.
_LEAST = 1e-6
# Of the component that is stored for nothing: larger, so that its share of the noise is smaller.
# Not larger still, since weights in few bits have to hold it.
_BOOST = 2.0


def balanced_basis(moment: Doubles, sensitivity: Doubles) -> Doubles:
    """The matrix ``A`` ``[D, D]`` for values with second moments ``moment`` ``[D, D]``.

    Args:
        moment: mean of ``v v^T``.
        sensitivity: sum of ``O^T O`` over the query heads that read these values, ``[D, D]``.
    """
    root, inverse_root = _square_roots(_regularized(moment))
    squares, vectors = np.linalg.eigh(root @ _regularized(sensitivity) @ root)
    components = inverse_root @ (vectors * np.maximum(squares, 0) ** 0.25)[:, ::-1]
    components[:, 0] *= _BOOST
    size = len(moment)
    placed = np.empty_like(components)
    placed[:, _from_common_to_fine(size)] = components
    return np.asarray(placed @ spreading_matrix(size))


def rounding_cost(moment: Doubles, sensitivity: Doubles, basis: Doubles | None = None) -> float:
    """What rounding does to the output, up to a factor, with one scale for a token's whole head."""
    if basis is not None:
        inverse = np.linalg.inv(basis)
        moment, sensitivity = basis.T @ moment @ basis, inverse @ sensitivity @ inverse.T
    return float((np.trace(moment) - moment.mean() * len(moment)) * np.trace(sensitivity))


def spreading_matrix(size: int) -> Doubles:
    """Orthogonal ``[size, size]``: a DCT of the odd factor of ``size`` times a Hadamard matrix."""
    power = size & -size
    odd = size // power
    angles = np.pi / odd * np.outer(np.arange(odd), np.arange(odd) + 0.5)
    matrix: Doubles = np.cos(angles) * np.sqrt(2 / odd)
    matrix[0] = np.sqrt(1 / odd)
    while len(matrix) < size:
        matrix = np.kron(matrix, np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2))
    return matrix


def _from_common_to_fine(size: int) -> list[int]:
    """Rows of :func:`spreading_matrix`: first that which is constant, then those constant on large
    groups, on smaller ones, and so on. Groups halve down to 1, so this serves all their sizes."""
    power = size & -size
    digits = power.bit_length() - 1
    halvings = [int(f"{n:0{digits}b}"[::-1], 2) if digits else 0 for n in range(power)]
    return [odd * power + fine for fine in halvings for odd in range(size // power)]


def _regularized(matrix: Doubles) -> Doubles:
    diagonal = np.diag(matrix)
    least = _LEAST * diagonal.mean() or 1.0
    regular: Doubles = matrix + np.diag(_REGULARIZATION * diagonal + least)
    return regular


def _square_roots(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Square root and inverse square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(np.maximum(values, values[-1] * np.finfo(np.float64).eps))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
