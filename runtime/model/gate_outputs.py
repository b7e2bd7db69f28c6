"""What a gate says, computed beside a paged graph: one product for all layers of a part.

A product a layer would take longer to begin than to compute when single tokens are decoded. States
of equal layers are put one behind the other, which costs nothing: the plugin lets the norms before
the projections write to their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops


def add_gate_outputs(
    model: ov.Model, states: Mapping[int, ov.Output], weights: Mapping[int, NDArray[np.float32]]
) -> list[range]:
    """Let ``model`` tell the scores of all tokens.

    Args:
        model: consecutive layers of a paged graph; outputs ``gates.N [layers, tokens, H]`` are
            added, N being the first of the layers in it.
        states: by layer of the model ``[tokens, 1, hidden]``, what enters the K projection.
        weights: by layer ``[hidden, H]``.

    Returns:
        The layers of each new output.
    """
    groups = []
    for shape, members in groupby(states, key=lambda number: weights[number].shape):
        numbers = list(members)
        flat = np.array([1, -1, shape[0]])
        stacked = ops.concat([ops.reshape(states[n], flat, False) for n in numbers], 0)
        weight = ops.constant(np.stack([weights[n] for n in numbers]))
        scores = ops.matmul(ops.convert(stacked, "f32"), weight, False, False)
        scores.output(0).set_names({f"gates.{numbers[0]}"})
        model.add_results([ops.result(scores)])
        groups.append(range(numbers[0], numbers[-1] + 1))
    return groups
