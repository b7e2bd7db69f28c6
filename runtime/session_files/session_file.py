"""Session files: written whole or not at all, and opened once everything has been checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ov_kvcrush.errors import SessionError
from ov_kvcrush.files import replacing
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer, whole_layers
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.session_files.cache_identity import CacheIdentity
from ov_kvcrush.runtime.session_files.regrouping import (
    RegroupingError,
    groups_to_json,
    read_groups,
    regrouped,
    regrouping,
)
from ov_kvcrush.runtime.session_files.sequence_state import SequenceState, StateError
from ov_kvcrush.runtime.session_files.stored_session import (
    StoredSession,
    check_pages,
    page_shapes,
    pages_name,
)
from ov_kvcrush.runtime.session_files.tensor_file import (
    ArraySource,
    DamagedFileError,
    TensorFile,
    open_tensors,
    write_tensors,
)

FORMAT = "ov-kvcrush-session"
VERSION = 3
# Files of version 1 know of no gate, those of version 2 of no heads with a cache of their own.
_READABLE_VERSIONS = ("1", "2", str(VERSION))


def write_session(
    path: Path,
    about: Mapping[str, Any],
    sequence: Sequence | None,
    memories: SequenceOf[CacheMemory],
    identity: CacheIdentity,
    layers: SequenceOf[CacheLayer],
    settings: Mapping[str, Any],
    gate: str = "",
) -> None:
    """Put ``sequence`` and its pages into the file at ``path``, whole or not at all.

    Args:
        path: replaced if it is there.
        about: what else is saved, as JSON values.
        sequence: parked, with something cached; None saves ``about`` alone.
        memories: the pages, by cache layer.
        identity: of the cache.
        layers: cache layers of the engine.
        settings: of the cache, to be found again by who reads the file.
        gate: digest of the gate that scored the tokens; empty for none.

    Raises:
        SessionError: it cannot be written; what was there is there.
    """
    state = None if sequence is None else SequenceState.of(sequence)
    sources: dict[str, ArraySource] = {}
    if state is not None and sequence is not None:
        try:
            state.check([layer.geometry for layer in layers], identity.vocab_size)
        except StateError as error:
            raise SessionError(
                f"the cache was broken off in an inference and is not saved: {error}",
                "Ask once more and save then.",
            ) from error
        sources = {name: partial(np.asarray, array) for name, array in state.arrays().items()}
        for number, layer in enumerate(sequence.layers):
            pages = layer.pages[: pages_for(layer.length)]
            memory, length = memories[number], layer.length
            sources[pages_name(number, "keys")] = partial(memory.copy_keys, pages, length)
            sources[pages_name(number, "values")] = partial(memory.copy_values, pages, length)
    content = {
        "about": dict(about),
        "identity": identity.to_dict(),
        "cache_layers": groups_to_json(layers),
        "state": None if state is None else state.values(),
        "kv_cache_config": dict(settings),
        "gate": gate,
        "made_with": {name: version(name) for name in ("ov-kvcrush", "openvino")},
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "content": json.dumps(content)}
    try:
        with replacing(path) as stream:
            write_tensors(stream, metadata, sources)
    except OSError as error:
        raise SessionError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def open_session(
    path: Path,
    memories: SequenceOf[CacheMemory],
    identity: CacheIdentity,
    layers: SequenceOf[CacheLayer],
) -> Iterator[StoredSession]:
    """The session in the file at ``path``, of which everything has been checked.

    Args:
        path: read, never changed.
        memories: the engine's pages, by cache layer.
        identity: whose cache it has to be.
        layers: the engine's cache layers.

    Raises:
        SessionError: the file is damaged, of another model, precision or format, or not a session.
    """
    try:
        with open_tensors(path) as file:
            content = read_content(path, file)
            file.prove()
            identity.require(content.get("identity"), path)
            saved = read_groups(content.get("cache_layers"), whole_layers(layers))
            heads = regrouping(saved, layers)
            state = read_state(file, content, saved, identity.vocab_size)
            check_pages(file, state, saved, page_shapes(memories, layers))
            gate, lost = str(content.get("gate", "")), ""
            try:
                state = state and regrouped(state, heads, layers)
            except RegroupingError as error:
                state = None
                lost = (
                    f"it was saved with other budgets for KV heads: {error}, and share a cache here"
                )
            yield StoredSession(file, content.get("about", {}), state, gate, heads, lost)
    except OSError as error:
        raise SessionError(f"cannot read {path}: {error.strerror}") from error
    except (DamagedFileError, StateError) as error:
        raise unusable_session(path, str(error)) from error


def read_about(path: Path) -> tuple[dict[str, Any], str]:
    """What a session file says about itself, and its digest, without any proof of the rest.

    Raises:
        SessionError: it cannot be read, or is not a session of this format.
    """
    try:
        with open_tensors(path) as file:
            return read_content(path, file).get("about", {}), file.digest
    except OSError as error:
        raise SessionError(f"cannot read {path}: {error.strerror}") from error
    except DamagedFileError as error:
        raise unusable_session(path, str(error)) from error


def read_state(
    file: TensorFile, content: Mapping[str, Any], saved: SequenceOf[CacheLayer], vocab_size: int
) -> SequenceState | None:
    """The state of the cache that ``file`` holds, checked; None where no cache was saved.

    Args:
        file: proved to be whole.
        content: that :func:`read_content` gave.
        saved: cache layers of the file.
        vocab_size: token ids of its model.

    Raises:
        StateError, DamagedFileError: nobody could go on from it.
    """
    if content.get("state") is None:
        return None
    state = SequenceState.read(content["state"], file.read, len(saved))
    state.check([layer.geometry for layer in saved], vocab_size)
    return state


def read_content(path: Path, file: TensorFile) -> dict[str, Any]:
    """What the session ``file`` at ``path`` says beside its tensors, as JSON values.

    Raises:
        SessionError: it is not a session of this format.
        DamagedFileError: it says nothing that can be read.
    """
    if file.metadata.get("format") != FORMAT:
        raise SessionError(
            f"{path} is a safetensors file, but not a saved session",
            "Give one that was saved from a chat or by ov-kvcrush crush.",
        )
    if file.metadata.get("version") not in _READABLE_VERSIONS:
        raise SessionError(
            f"{path} has format version {file.metadata.get('version')}; this release reads "
            f"{VERSION}",
            "Use the release of ov-kvcrush it was saved with.",
        )
    try:
        content = json.loads(file.metadata.get("content", ""))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"its metadata is not JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("about", {}), dict):
        raise DamagedFileError("its metadata is not a JSON object")
    return content


def unusable_session(path: Path, reason: str) -> SessionError:
    """The error that says why the file at ``path`` cannot be gone on from."""
    return SessionError(f"{path} is not a usable session: {reason}", "Use another copy of it.")
