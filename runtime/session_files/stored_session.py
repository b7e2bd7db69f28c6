"""What an open session file holds, checked against an engine, and put into a sequence of it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np

from ov_kvcrush.errors import SessionError
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout, pages_for
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.session_files.regrouping import Regrouping, by_saved_layer
from ov_kvcrush.runtime.session_files.sequence_state import SequenceState, StateError
from ov_kvcrush.runtime.session_files.tensor_file import TensorFile


class StoredSession:
    """An open session file that was found whole and of this model.

    Attributes:
        about: what was saved with the cache, as JSON values.
        state: tokens, positions and so on, by the engine's cache layers; None where no cache was
            saved.
        gate: digest of the gate that scored the tokens; empty for none.
        lost: why the cache that was saved cannot be gone on from here; ``state`` is None then.
    """

    def __init__(
        self,
        file: TensorFile,
        about: dict[str, Any],
        state: SequenceState | None,
        gate: str,
        heads: Regrouping,
        lost: str = "",
    ) -> None:
        self._file = file
        self.about = about
        self.state = state
        self.gate = gate
        self._heads = heads
        self.lost = lost

    @property
    def digest(self) -> str:
        """Of all that is stored: another content has another one."""
        return self._file.digest

    @property
    def token_ids(self) -> list[int]:
        """All tokens, the last of which the cache may not have read yet."""
        return [] if self.state is None else self.state.tokens.tolist()

    @property
    def layer_pages(self) -> list[int]:
        """Pages of each layer."""
        return [] if self.state is None else [pages_for(one.length) for one in self.state.layers]

    def fill(self, sequence: Sequence, memories: SequenceOf[CacheMemory]) -> None:
        """Write the stored keys and values to the pages that ``sequence`` has.

        Each tensor of the file is read once, and one at a time.
        """
        for saved, parts in by_saved_layer(self._heads).items():
            for side in ("keys", "values"):
                stored = self._file.read(pages_name(saved, side))
                for part in parts:
                    pages = sequence.layers[part.layer].pages
                    held = getattr(memories[part.layer], side)
                    held[np.ix_(pages, part.places)] = stored[:, part.saved_places]


def load_into(sequence: Sequence, stored: StoredSession, cache: KVCache, gate: str = "") -> None:
    """Let ``sequence``, new and of the stored tokens, hold what is ``stored``, on its own pages.

    What another gate than the one with the digest ``gate`` has said is left out, unless a second
    reading has found it.

    Raises:
        SessionError: the pool has no room, or the policy of ``sequence`` needs what was not saved;
            no page is taken then.
    """
    state = stored.state
    if state is None:
        raise RuntimeError("a session without a cache was to be loaded into one")
    if sequence.accumulates and not state.is_accumulated:
        raise SessionError(
            "the session was saved without the attention that this importance method sums up",
            "Load the model with the importance method it was saved with, or one with a window.",
        )
    with cache.released_on_failure(sequence):
        is_known = state.is_thorough or stored.gate == gate
        (state if is_known else state.unscored()).restore(sequence)
        # Asked first: what is parked would be dropped in vain.
        if not (cache.pool.could_hold(stored.layer_pages) and cache.extend(sequence, 0)):
            size = cache.bytes_of_pages(stored.layer_pages)
            raise SessionError(
                f"the session's cache takes {size / 1e6:,.1f} MB, and the pool of "
                f"{cache.max_bytes / 1e6:,.1f} MB has no room for it",
                "Close chats and cached prefixes, or give a larger pool_size.",
            )
        stored.fill(sequence, cache.memories)


def check_pages(
    file: TensorFile,
    state: SequenceState | None,
    saved: SequenceOf[CacheLayer],
    shapes: Mapping[tuple[int, str], tuple[int, ...]],
) -> None:
    """Prove that every page of ``state`` is there, and nothing else is.

    Args:
        file: proved to be whole.
        state: by cache layer of the file.
        saved: those cache layers.
        shapes: by layer of the model and side, what one head has of a page.

    Raises:
        StateError, DamagedFileError: it is not so.
    """
    wanted = set() if state is None else {*state.arrays()}
    for number, kept in enumerate(() if state is None else state.layers):
        heads = len(saved[number].heads)
        for side in ("keys", "values"):
            name = pages_name(number, side)
            shape = (pages_for(kept.length), heads, *shapes[saved[number].layer, side])
            found = file.type_and_shape(name)
            if found != ("uint8", shape):
                raise StateError(f"{name} is {found[0]} {list(found[1])}, not uint8 {list(shape)}")
            wanted.add(name)
    foreign = sorted({*file.names} - wanted)
    if foreign:
        raise StateError(f"it has a tensor {foreign[0]} that does not belong to it")


def page_shapes(
    memories: SequenceOf[CacheMemory], layers: SequenceOf[CacheLayer]
) -> dict[tuple[int, str], tuple[int, ...]]:
    """By layer of the model and side, what one head has of a page of ``memories``."""
    return {
        (layer.layer, side): getattr(memory, side).shape[2:]
        for layer, memory in zip(layers, memories, strict=True)
        for side in ("keys", "values")
    }


def page_shapes_of(layouts: SequenceOf[CacheLayout]) -> dict[tuple[int, str], tuple[int, ...]]:
    """The same of ``layouts`` by layer of the model, where there is no memory."""
    shapes: dict[tuple[int, str], tuple[int, ...]] = {}
    for number, layout in enumerate(layouts):
        shapes[number, "keys"] = (layout.key_head_bytes,)
        shapes[number, "values"] = (PAGE_SIZE, layout.value_row_bytes)
    return shapes


def pages_name(number: int, side: str) -> str:
    """Name of the tensor with the ``side`` of cache layer ``number``: keys or values."""
    return f"layers.{number}.{side}"
