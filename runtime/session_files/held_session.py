"""What a session has cached at one moment, on its way to a file: any thread may write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ov_kvcrush.errors import SessionError
from ov_kvcrush.files import replacing
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.session_files.cache_identity import CacheIdentity
from ov_kvcrush.runtime.session_files.regrouping import groups_to_json
from ov_kvcrush.runtime.session_files.sequence_state import SequenceState, StateError
from ov_kvcrush.runtime.session_files.session_file import FORMAT, VERSION
from ov_kvcrush.runtime.session_files.stored_session import pages_name
from ov_kvcrush.runtime.session_files.tensor_file import ArraySource, write_tensors


@dataclass(frozen=True)
class CacheOrigin:
    """Where what is held comes from: an engine's memory, and what its bytes mean.

    Attributes:
        memories: the pages, by cache layer.
        identity: of the cache.
        layers: cache layers of the engine.
        settings: of the cache, to be found again by who reads the file.
        gate: digest of the gate that scored the tokens; empty for none.
    """

    memories: SequenceOf[CacheMemory]
    identity: CacheIdentity
    layers: SequenceOf[CacheLayer]
    settings: Mapping[str, Any]
    gate: str = ""


class HeldSession:
    """A session's cache as it was when this was made, with the engine at rest.

    It writes as long as ``is_held`` says that nobody has taken the pages.

    Args:
        sequence: parked, with something cached; None for a session that has nothing cached.
        origin: of its pages.
        is_held: whether ``sequence`` still has its pages; always, while the engine is at rest.

    Attributes:
        num_tokens: that were read; 0 where nothing is cached.
        num_kept: that a KV head holds of them, on average.
    """

    def __init__(
        self, sequence: Sequence | None, origin: CacheOrigin, is_held: Callable[[], bool]
    ) -> None:
        self._origin = origin
        self._is_held = is_held
        self._state = None if sequence is None else SequenceState.of(sequence)
        self._pages = [] if sequence is None else [list(layer.pages) for layer in sequence.layers]
        self.num_tokens = 0 if sequence is None else sequence.num_cached
        self.num_kept = 0 if sequence is None else sequence.num_kept

    @property
    def is_empty(self) -> bool:
        """Whether nothing was cached."""
        return self._state is None

    def close(self) -> None:
        """Let go of the pages. What is being written is given up; what was there is there."""
        self._is_held = _is_let_go

    def write(self, path: Path, about: Mapping[str, Any]) -> None:
        """Put it into the file at ``path``, whole or not at all.

        Args:
            path: replaced if it is there.
            about: what else is saved, as JSON values.

        Raises:
            SessionError: it cannot be written, or its pages were needed for others meanwhile; what
                was there is there.
        """
        from importlib.metadata import version  # slower to import than all else that is here

        origin, state = self._origin, self._state
        self._check()
        content = {
            "about": dict(about),
            "identity": origin.identity.to_dict(),
            "cache_layers": groups_to_json(origin.layers),
            "state": None if state is None else state.values(),
            "kv_cache_config": dict(origin.settings),
            "gate": origin.gate,
            "made_with": {name: version(name) for name in ("ov-kvcrush", "openvino")},
        }
        metadata = {"format": FORMAT, "version": str(VERSION), "content": json.dumps(content)}
        try:
            with replacing(path) as stream:
                write_tensors(stream, metadata, self._sources())
                if not self._is_held():  # then others may have written to the pages
                    raise SessionError(
                        "the cache was given up for others while it was being saved",
                        "Ask once more and save then, or give a larger pool_size.",
                    )
        except OSError as error:
            raise SessionError(f"cannot write {path}: {error.strerror}") from error

    def _check(self) -> None:
        if self._state is None:
            return
        try:
            self._state.check(
                [layer.geometry for layer in self._origin.layers], self._origin.identity.vocab_size
            )
        except StateError as error:
            raise SessionError(
                f"the cache was broken off in an inference and is not saved: {error}",
                "Ask once more and save then.",
            ) from error

    def _sources(self) -> dict[str, ArraySource]:
        if self._state is None:
            return {}
        sources: dict[str, ArraySource] = {
            name: partial(np.asarray, array) for name, array in self._state.arrays().items()
        }
        for number, layer in enumerate(self._state.layers):
            pages = self._pages[number][: pages_for(layer.length)]
            memory = self._origin.memories[number]
            sources[pages_name(number, "keys")] = partial(memory.copy_keys, pages, layer.length)
            sources[pages_name(number, "values")] = partial(memory.copy_values, pages, layer.length)
        return sources


def _is_let_go() -> bool:
    return False
