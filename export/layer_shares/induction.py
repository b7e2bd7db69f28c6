"""Which heads look up what comes next: attention on the token that is to be copied.

Induction heads (arXiv 2209.11895) attend to what stood behind the last token when it came before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.export.layer_shares.copying import CopyTrial
from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS, read_all_keys


def attention_on_copied(trial: CopyTrial, layers: Sequence[int]) -> list[NDArray[np.float64]]:
    """By layer of ``layers`` ``[H]``, the attention of each KV head on the token to be copied next.

    The mean over copied tokens and the query heads of the KV head, 0 to 1.
    """
    # The next inference would overwrite them; there is none.
    queries = trial.read(shows_queries=True).queries
    num_passages = len(trial.passages)
    return [
        np.mean(
            [
                _on_copied(trial, number, place, rows)
                for place, rows in enumerate(np.split(queries[number], num_passages))
            ],
            axis=0,
        )
        for number in layers
    ]


def _on_copied(
    trial: CopyTrial, number: int, place: int, queries: NDArray[np.float32]
) -> NDArray[np.float64]:
    """``[H]``, of the counted rows of one passage, ``queries [rows, Hq * D]``."""
    model, passage = trial.model, trial.passages[place]
    layer, memory = model.layers[number], model.memories[number]
    length = int(trial.lengths[-1])
    kind = KEY_KINDS[memory.layout.key_type]
    size = layer.key_head_size
    keys = read_all_keys(memory.keys, kind, trial.table(passage), length, size)
    by_head = queries.reshape(len(queries), layer.num_kv_heads, -1, size)
    seen = np.arange(length) < trial.lengths[:, None]
    found = np.empty(layer.num_kv_heads)
    for head, key in enumerate(keys):
        products = np.einsum("rgd,td->grt", by_head[:, head], key, optimize=True)
        products = np.where(seen, products * model.scales[number], -np.inf)
        weights = np.exp(products - products.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        found[head] = weights[:, np.arange(len(queries)), passage.copied_from].mean()
    return found
