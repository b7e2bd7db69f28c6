"""A model that reads a text and then passages out of its middle once more.

After a few tokens of a passage the rest can be predicted by looking it up in the text, and hardly
in another way.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.model.compiled_graph import Forward
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, pages_for
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence

# What even a layer without its far tokens sees; whole pages, so that nothing has to be moved.
_START_PAGES, _RECENT_PAGES = 1, 2

_NUM_PASSAGES = 4
_PASSAGE_TOKENS = 40
# So many tokens tell which passage it is; only the others count.
_LEAD_TOKENS = 8

# Rows of a passage that count: each says what token comes after it.
_COUNTED = np.arange(_LEAD_TOKENS - 1, _PASSAGE_TOKENS - 1, dtype=np.int32)


@dataclass(frozen=True)
class Passage:
    """Tokens that are read again.

    Attributes:
        tokens: their ids.
        begin: where they stand in the text.
        pages: of each layer, which they go to.
    """

    tokens: list[int]
    begin: int
    pages: list[int]

    @property
    def following(self) -> list[int]:
        """By counted row, the token that comes after it."""
        return self.tokens[_LEAD_TOKENS:]

    @property
    def copied_from(self) -> NDArray[np.int64]:
        """By counted row, the place in the text of the token that comes after it."""
        return self.begin + _COUNTED.astype(np.int64) + 1


class CopyTrial:
    """The model with the text in its cache, from which passages are read again and again.

    The passages stand behind the text as sequences of one inference, which share its pages and have
    only those of their own tokens for themselves. So nothing is copied or moved: to take the far
    tokens from a layer is to give it a shorter page table.

    Args:
        model: it has the text in its first pages, in whole pages.
        text: token ids.
        first_page: of those that passages may go to.

    Attributes:
        passages: all over the text.
    """

    def __init__(self, model: PagedModel, text: list[int], first_page: int) -> None:
        self.model = model
        self._text = text
        self._text_pages = list(range(pages_for(len(text))))
        own = pages_for(_PASSAGE_TOKENS)
        self.passages = [
            Passage(text[begin : begin + _PASSAGE_TOKENS], begin, list(range(first, first + own)))
            for begin, first in zip(
                _begins(len(text)),
                range(first_page, first_page + self.num_pages(), own),
                strict=True,
            )
        ]

    @staticmethod
    def num_pages() -> int:
        """Pages that the passages take, beside the text's."""
        return _NUM_PASSAGES * pages_for(_PASSAGE_TOKENS)

    def read(self, blind: Collection[int] = (), shows_queries: bool = False) -> Forward:
        """Read all passages once; logits, and queries where wanted, of the counted rows.

        Args:
            blind: layers that see start and end of the text only.
        """
        chunks = [
            Chunk.of(self._sequence(passage, blind), _PASSAGE_TOKENS) for passage in self.passages
        ]
        begins = np.arange(len(chunks), dtype=np.int32) * _PASSAGE_TOKENS
        rows = (begins[:, None] + _COUNTED).ravel()
        batch = replace(build_batch(chunks), sampled_rows=rows)
        return self.model.forward(replace(batch, window_rows=rows) if shows_queries else batch)

    def table(self, passage: Passage) -> NDArray[np.int32]:
        """The pages of every layer that sees all: of the text and of the passage behind it."""
        return np.array(self._text_pages + passage.pages, np.int32)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """By counted row of a passage, tokens that it sees."""
        return len(self._text) + _COUNTED.astype(np.int64) + 1

    def _sequence(self, passage: Passage, blind: Collection[int]) -> Sequence:
        """The text, which is in the cache already, and the passage, which is not."""
        sequence = Sequence([*self._text, *passage.tokens], self.model.layers, None)
        sequence.num_cached = len(self._text)
        near = self._text_pages[:_START_PAGES] + self._text_pages[-_RECENT_PAGES:]
        for number, layer in enumerate(sequence.layers):
            seen = near if number in blind else self._text_pages
            layer.pages = seen + passage.pages
            layer.append(0, len(seen) * PAGE_SIZE)
        return sequence


def _begins(num_tokens: int) -> list[int]:
    """Places all over a text but its start and its end, which every layer sees."""
    first = _START_PAGES * PAGE_SIZE
    last = num_tokens - _RECENT_PAGES * PAGE_SIZE - _PASSAGE_TOKENS
    return [int(n) for n in np.linspace(first, last, _NUM_PASSAGES + 2, dtype=int)[1:-1]]
