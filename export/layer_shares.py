"""Which layers look far back: measured by taking the far tokens from one layer at a time.

The model reads a text and then passages out of its middle once more. After a few tokens of a
passage the rest can be predicted by looking it up in the text, and hardly in another way. What is
added to the surprise when a layer sees only the beginning and the end of the text is what that
layer's cache of the rest is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import OVKVCrushError, last_line
from ov_kvcrush.export.texts.passages import read_tokens
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, pages_for
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence, sequence_on_pages
from ov_kvcrush.selection.layer_shares import with_least_share

LEAST_SHARE = 0.2
"""What every layer gets of an even share: copying is not all that a layer's memory serves."""

_TEXT_TOKENS, _LEAST_TEXT_TOKENS = 2048, 256
# What even the layer without its far tokens sees; whole pages, so that nothing has to be moved.
_START_PAGES, _RECENT_PAGES = 1, 2

_NUM_PASSAGES = 4
_PASSAGE_TOKENS = 40
# So many tokens tell which passage it is; only the others count.
_LEAD_TOKENS = 8
# Nats a token. A smaller difference is noise, which shares in proportion would blow up.
_LEAST_NATS = 0.01


def measure_layer_shares(
    model: PagedModel, folder: Path, context_length: int, progress: Progress
) -> tuple[float, ...]:
    """Each layer's share in the budget of an evicting cache, by what its far tokens are worth.

    Costs reading some 2,000 tokens, and 160 more for each layer.

    Args:
        model: compiled, without a cache; it gets one here, and serves nothing else afterwards.
        folder: holds its tokenizer.
        context_length: tokens it can read, 0 where that is not known.
        progress: is told when there is nothing to measure; an export does not fail for that.

    Returns:
        By layer, at least ``LEAST_SHARE``, 1 on average; empty where it could not be measured.
    """
    free = [n for n, layer in enumerate(model.layers) if not layer.sliding_window]
    if len(free) < 2:
        return ()  # nothing to divide: a layer with a sliding window has no budget
    # Half of the context: where RoPE is at its end, a model copies badly with any cache.
    num_tokens = min(_TEXT_TOKENS, context_length // 2 or _TEXT_TOKENS)
    added = [0.0] * len(model.layers)
    try:
        text = read_tokens(folder)[:num_tokens]
        del text[len(text) // PAGE_SIZE * PAGE_SIZE :]
        if len(text) < _LEAST_TEXT_TOKENS:
            return _not_measured(progress, f"a context of {context_length} tokens is too short")
        trial = _Trial(model, text)
        unharmed = trial.surprise()
        for n in free:
            added[n] = trial.surprise(without=n) - unharmed
    except OVKVCrushError as error:
        return _not_measured(progress, error.message)
    except RuntimeError as error:  # OpenVINO's, of an inference or the tokenizer
        return _not_measured(progress, last_line(error))
    # Seeing less never helps; where it seems to, that shows how large the noise is.
    if max(added) < max(_LEAST_NATS, -min(added)):
        progress.note("no layer was found to look back: all get the same part of a budget")
        return ()
    shares = with_least_share([max(0.0, nats) for nats in added], LEAST_SHARE)
    return tuple(round(share, 3) for share in shares)


def _not_measured(progress: Progress, reason: str) -> tuple[float, ...]:
    progress.note(f"which layers look back could not be measured: {reason}")
    return ()


@dataclass(frozen=True)
class _Passage:
    """Tokens that are read again, and the pages of each layer they go to."""

    tokens: list[int]
    pages: list[int]


class _Trial:
    """The model with the text in its cache, from which passages are read again and again.

    The passages stand behind the text as sequences of one inference, which share its pages and have
    only those of their own tokens for themselves. So nothing is copied or moved: to take the far
    tokens from a layer is to give it a shorter page table.
    """

    def __init__(self, model: PagedModel, text: list[int]) -> None:
        self._model = model
        self._text = text
        self._text_pages = list(range(pages_for(len(text))))
        own = pages_for(_PASSAGE_TOKENS)
        firsts = range(len(self._text_pages), len(self._text_pages) + _NUM_PASSAGES * own, own)
        self._passages = [
            _Passage(tokens, list(range(first, first + own)))
            for tokens, first in zip(_passages(text), firsts, strict=True)
        ]
        model.reserve([firsts.stop] * len(model.layers))
        model.forward(build_batch([Chunk.of(sequence_on_pages(text, model.layers), len(text))]))

    def surprise(self, without: int | None = None) -> float:
        """Mean negative log likelihood, in nats, of the passages' tokens behind their lead.

        Args:
            without: layer that sees start and end of the text only.
        """
        chunks = [
            Chunk.of(self._sequence(passage, without), _PASSAGE_TOKENS)
            for passage in self._passages
        ]
        # Logits of a row tell the token after it.
        counted = np.arange(_LEAD_TOKENS - 1, _PASSAGE_TOKENS - 1, dtype=np.int32)
        begins = np.arange(len(chunks), dtype=np.int32) * _PASSAGE_TOKENS
        rows = (begins[:, None] + counted).ravel()
        logits = self._model.forward(replace(build_batch(chunks), sampled_rows=rows)).logits
        following = [p.tokens[_LEAD_TOKENS:] for p in self._passages]
        return _negative_log_likelihood(logits, np.array(following).ravel())

    def _sequence(self, passage: _Passage, without: int | None) -> Sequence:
        """The text, which is in the cache already, and the passage, which is not."""
        sequence = Sequence([*self._text, *passage.tokens], self._model.layers, None)
        sequence.num_cached = len(self._text)
        near = self._text_pages[:_START_PAGES] + self._text_pages[-_RECENT_PAGES:]
        for number, layer in enumerate(sequence.layers):
            seen = near if number == without else self._text_pages
            layer.pages = seen + passage.pages
            layer.length = len(seen) * PAGE_SIZE
        return sequence


def _passages(text: list[int]) -> list[list[int]]:
    """Token ids from all over the text but its start and its end, which every layer sees."""
    first = _START_PAGES * PAGE_SIZE
    last = len(text) - _RECENT_PAGES * PAGE_SIZE - _PASSAGE_TOKENS
    begins = np.linspace(first, last, _NUM_PASSAGES + 2, dtype=int)[1:-1]
    return [text[begin : begin + _PASSAGE_TOKENS] for begin in begins]


def _negative_log_likelihood(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
    """Mean over the rows of ``logits [n, vocab]``, each of which should tell one of ``tokens``."""
    largest = logits.max(axis=1, keepdims=True)
    totals = largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=1, dtype=np.float64))
    return float((totals - logits[np.arange(len(tokens)), tokens]).mean())
