"""What a low precision of one layer's cache does to the model's output, on the plugin itself.

The model is compiled layer by layer with a cache in f32, and reads a text once; what every layer
is given is kept. For a layer and a precision, that layer alone is compiled anew and reads on from
what it was given, and the layers behind it follow. So nothing is predicted and little computed
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.batch import Batch, build_batch
from ov_kvcrush.runtime.model.compiled_part import CompiledPart
from ov_kvcrush.runtime.model.graph_parts import split_graph
from ov_kvcrush.runtime.model.paged_graph import read_paged_graph
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.plugin.properties import with_precision
from ov_kvcrush.runtime.sequences.sequence import Chunk, sequence_on_pages

EXACT = LayerPrecision("f32", "f32")
# Weights in 8 or 4 bits make the plugin quantize activations as it goes, and any small change then
# rounds others elsewhere: 0.0005 nats of noise, more than a cache in u8 costs.
_PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}

# Logits in memory at a time, and so the chunk.
_ROWS_AT_ONCE = 128
# Rows whose next-token distributions are compared: logits of a whole text would be gigabytes.
_COMPARED_ROWS = 256

Logs = NDArray[np.float64]


class SensitivityTrial:
    """A model whose layers are given other KV precisions one at a time.

    Args:
        folder: exported model.
        passages: token ids of texts, read at once, each from an empty cache.

    Raises:
        UnsupportedError: its layers are joined by more than one tensor.
        ModelError: the plugin does not compile it.
    """

    def __init__(self, folder: Path, passages: Sequence[Sequence[int]]) -> None:
        graph = read_paged_graph(folder)
        self._geometry = graph.layers
        self._graphs = split_graph(graph, range(1, len(self._geometry)))
        self._batch = _batch(passages, self._geometry)
        self._num_pages = int(self._batch.block_indices.max()) + 1
        self._layers = [self._compile(n, EXACT) for n in range(len(self._geometry))]
        self._given: list[ov.Tensor | None] = [None]
        for layer in self._layers:
            passed_on = layer.infer(self._batch, self._given[-1])
            self._given.append(None if passed_on is None else ov.Tensor(passed_on.data.copy()))
        self._wanted = _log_probabilities(self._layers[-1].output("logits")[:, 0])

    def harm(self, number: int, precision: LayerPrecision) -> float:
        """Mean KL divergence, in nats a token, of the output with layer ``number`` stored so.

        From the model's output with its cache in f32; the other layers' caches stay in f32.
        """
        changed = self._compile(number, precision)
        states = changed.infer(self._batch, self._given[number])
        last = changed
        for last in self._layers[number + 1 :]:
            states = last.infer(self._batch, states)
        return kl_divergence(self._wanted, _log_probabilities(last.output("logits")[:, 0]))

    def _compile(self, number: int, precision: LayerPrecision) -> CompiledPart:
        properties = with_precision(_PROPERTIES, precision)
        part = CompiledPart(self._graphs[number], self._geometry, properties)
        part.reserve([self._num_pages])
        return part


@dataclass(frozen=True)
class Output:
    """What a model says to some texts.

    Attributes:
        log_probabilities: ``[rows, vocab]`` of the next token, rows evenly spread over the texts.
        perplexity: of all tokens but each text's first.
    """

    log_probabilities: Logs
    perplexity: float


def read_output(
    folder: Path, precisions: Sequence[LayerPrecision], passages: Sequence[Sequence[int]]
) -> Output:
    """What the whole model says to ``passages`` with its cache in ``precisions``, by layer.

    It computes in f32, but in bf16 behind a cache in bf16: the plugin has that nowhere else.
    """
    computed_in = "bf16" if precisions[0].key == "bf16" else "f32"
    properties = {**_PROPERTIES, "INFERENCE_PRECISION_HINT": computed_in}
    model = PagedModel(folder, precisions=precisions, properties=properties)
    model.reserve([pages_for(max(map(len, passages)))] * len(model.layers))
    logs, surprise = [], 0.0
    for tokens in passages:
        reader = sequence_on_pages(tokens, model.layers)
        kept = set(_compared_rows(passages, len(tokens)).tolist())
        while reader.num_uncached:
            begin, count = reader.num_cached, min(reader.num_uncached, _ROWS_AT_ONCE)
            batch = build_batch([Chunk.of(reader, count)])
            batch = replace(batch, sampled_rows=np.arange(count, dtype=np.int32))
            told = _log_probabilities(model.forward(batch).logits)
            reader.append(count)
            end = reader.num_cached
            following = np.array(tokens[begin + 1 : end + 1], np.int64)
            surprise -= told[np.arange(len(following)), following].sum()
            logs.append(told[[row - begin for row in range(begin, end) if row in kept]])
    num_told = sum(len(tokens) - 1 for tokens in passages)
    return Output(np.concatenate(logs), float(np.exp(surprise / num_told)))


def kl_divergence(wanted: Logs, found: Logs) -> float:
    """Mean over rows of the Kullback-Leibler divergence of log probabilities ``[rows, vocab]``."""
    return float((np.exp(wanted) * (wanted - found)).sum(axis=1).mean())


def _batch(passages: Sequence[Sequence[int]], layers: tuple[LayerGeometry, ...]) -> Batch:
    """All ``passages``, each on pages of its own from 0 on; logits of rows spread over them."""
    chunks, rows, first_row, first_page = [], [], 0, 0
    for tokens in passages:
        chunks.append(Chunk.of(sequence_on_pages(tokens, layers, first_page), len(tokens)))
        rows.append(first_row + _compared_rows(passages, len(tokens)))
        first_row += len(tokens)
        first_page += pages_for(len(tokens))
    return replace(build_batch(chunks), sampled_rows=np.concatenate(rows))


def _compared_rows(passages: Sequence[Sequence[int]], size: int) -> NDArray[np.int32]:
    """Rows of a passage of ``size`` tokens whose next-token distributions are compared."""
    count = min(size, _COMPARED_ROWS // len(passages))
    return np.linspace(0, size - 1, count).astype(np.int32)


def _log_probabilities(logits: NDArray[np.float32]) -> Logs:
    """Of logits ``[rows, vocab]``."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
