"""Which token ids a model can read and write, as its graph says."""

from __future__ import annotations

from collections.abc import Iterator

import openvino as ov

_LOGITS = "logits"
_INPUT = "input_ids"


def num_token_ids(model: ov.Model) -> int:
    """How many token ids ``model`` can both read and write: 0 and on; 0 where it does not tell.

    An id beyond the embedding reads whatever lies behind it in memory: nothing checks it.
    """
    sizes = [*_embedding_rows(model)]
    logits = model.output(_LOGITS).get_partial_shape()[-1]
    if logits.is_static:
        sizes.append(logits.get_length())
    return int(min(sizes, default=0))


def _embedding_rows(model: ov.Model) -> Iterator[int]:
    """Rows of each table that the token ids are looked up in."""
    waiting = [model.input(_INPUT)]
    while waiting:
        for port in waiting.pop().get_target_inputs():
            node = port.get_node()
            if node.get_type_name() == "Convert":
                waiting.append(node.output(0))
            elif node.get_type_name() == "Gather" and port.get_index() == 1:
                rows = node.input(0).get_partial_shape()[0]
                if rows.is_static:
                    yield rows.get_length()
