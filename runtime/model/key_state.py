"""The state that enters a layer's K projection: what a gate looks at.

Found from the graph's structure: going up from the attention's key, the nearest product of what was
computed from the tokens with weights. RoPE, norms of keys, splits of a fused projection and biases
lie between; the norm before the projection lies above.
"""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov

_KEY = 1  # input of a PagedAttentionExtension node


def find_key_states(model: ov.Model, attentions: Sequence[ov.Node]) -> list[ov.Output] | None:
    """By layer, what enters the K projection, ``[tokens, 1, hidden]``.

    Args:
        model: paged graph.
        attentions: of each layer, in order.

    Returns:
        None where some layer's keys do not come from one product of one state with weights (keys
        put together from several, as in multi-head latent attention).
    """
    tokens = [p.output(0) for p in model.get_parameters() if "input_ids" in _names(p.output(0))]
    from_tokens = _computed_from(tokens)
    from_any = _computed_from([p.output(0) for p in model.get_parameters()])
    states = []
    for attention in attentions:
        state = _state_above(attention.input_value(_KEY), from_tokens, from_any)
        if state is None:
            return None
        states.append(state)
    return states


def _state_above(key: ov.Output, from_tokens: set[str], from_any: set[str]) -> ov.Output | None:
    """The data of the one weighed product that ``key`` is made of."""
    found: dict[str, ov.Output] = {}
    seen: set[str] = set()
    waiting = [key.get_node()]
    while waiting:
        node = waiting.pop()
        name = node.get_name()
        if name in seen or name not in from_tokens:
            continue
        seen.add(name)
        data = _data_of_weighed_product(node, from_any)
        if data is not None:
            found[name] = data
        else:
            waiting += [value.get_node() for value in node.input_values()]
    states = {(data.get_node().get_name(), data.get_index()): data for data in found.values()}
    if len(states) != 1:
        return None
    (state,) = states.values()
    shape = state.get_partial_shape()
    is_flat = len(shape) == 3 and shape[1] == 1 and shape[2].is_static
    return state if is_flat else None


def _data_of_weighed_product(node: ov.Node, from_any: set[str]) -> ov.Output | None:
    if node.get_type_name() != "MatMul":
        return None
    sides = [node.input_value(0), node.input_value(1)]
    varying = [side for side in sides if side.get_node().get_name() in from_any]
    return varying[0] if len(varying) == 1 else None


def _computed_from(outputs: Sequence[ov.Output]) -> set[str]:
    """Names of the nodes that the values of ``outputs`` reach; their shapes alone do not count."""
    found: set[str] = set()
    waiting = list(outputs)
    while waiting:
        for port in waiting.pop().get_target_inputs():
            node = port.get_node()
            name = node.get_name()
            if name not in found and node.get_type_name() != "ShapeOf":
                found.add(name)
                waiting += node.outputs()
    return found


def _names(output: ov.Output) -> set[str]:
    return set(output.get_names())
