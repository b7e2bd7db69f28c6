"""What a layer's attention adds to the residual stream: its output projection's weights.

Found in the paged graph behind the attention, whatever they are stored as.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

# What may stand between the attention and its projection: the same numbers in another order, or
# those of some rows.
_REARRANGING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Convert", "Gather"}


def find_output_projection(attention: ov.Node) -> NDArray[np.float32] | None:
    """The weights ``[hidden, Hq * Dv]`` that the output of ``attention`` is multiplied with.

    None where it does not go into one MatMul with constant weights.
    """
    output = attention.output(0)
    while True:
        readers = list(output.get_target_inputs())
        if len(readers) != 1:
            return None
        node = readers[0].get_node()
        kind = node.get_type_name()
        if kind == "MatMul" and readers[0].get_index() == 0:
            break
        if kind not in _REARRANGING or readers[0].get_index() != 0:
            return None
        output = node.output(0)
    if node.get_attributes()["transpose_a"]:
        return None
    weights = _constant(node.input_value(1))
    if weights is None or weights.ndim != 2:
        return None
    return weights if node.get_attributes()["transpose_b"] else weights.T


def _constant(source: ov.Output) -> NDArray[np.float32] | None:
    """The value of ``source`` as float32; None where it depends on the model's inputs."""
    decompressed = ops.convert(source, "f32")
    if decompressed.get_output_partial_shape(0).is_dynamic:
        return None
    value = ov.Tensor(ov.Type.f32, decompressed.get_output_shape(0))
    try:
        decided = ov.Model([ops.result(decompressed)], []).evaluate([value], [])
    except RuntimeError:  # an input of the model
        return None
    return np.array(value.data) if decided else None
