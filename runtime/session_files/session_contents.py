"""All that a session file says, proved as far as can be without the model it was saved with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ov_kvcrush.errors import SessionError
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer, cache_layers, undivided
from ov_kvcrush.runtime.pages.layout import CacheLayout, pages_for
from ov_kvcrush.runtime.session_files.cache_identity import CacheIdentity
from ov_kvcrush.runtime.session_files.regrouping import (
    RegroupingError,
    read_groups,
    regrouped,
    regrouping,
)
from ov_kvcrush.runtime.session_files.sequence_state import SequenceState, StateError
from ov_kvcrush.runtime.session_files.session_file import (
    read_content,
    read_state,
    unusable_session,
)
from ov_kvcrush.runtime.session_files.stored_session import check_pages, page_shapes_of
from ov_kvcrush.runtime.session_files.tensor_file import DamagedFileError, open_tensors


@dataclass(frozen=True, eq=False)
class SessionContents:
    """A session file that is whole.

    Attributes:
        version: of its format.
        about: what was saved with the cache, as JSON values.
        identity: whose cache it is.
        cache_layers: KV heads that share pages.
        state: tokens, positions and so on, by cache layer; None where no cache was saved.
        settings: of the cache, by name.
        gate: digest of the gate that scored the tokens; empty for none.
        made_with: versions of the libraries that made it.
    """

    version: int
    about: dict[str, Any]
    identity: CacheIdentity
    cache_layers: tuple[CacheLayer, ...]
    state: SequenceState | None
    settings: dict[str, Any]
    gate: str
    made_with: dict[str, Any]

    @property
    def num_kept(self) -> float:
        """Tokens that a KV head holds on average; 0 without a cache."""
        every = [kept for layer in self.kept_by_head for kept in layer]
        return fmean(every) if every else 0

    @property
    def kept_by_head(self) -> tuple[tuple[int, ...], ...]:
        """Tokens by layer of the model and KV head; empty without a cache."""
        kept = {(layer.layer, head): count for layer, count in self._held for head in layer.heads}
        layers = self.identity.layers if kept else ()
        return tuple(
            tuple(kept[number, head] for head in range(layer.num_kv_heads))
            for number, layer in enumerate(layers)
        )

    @property
    def kv_bytes(self) -> int:
        """Bytes of the pages; 0 without a cache."""
        precisions = self.identity.precisions
        return sum(
            pages_for(kept) * CacheLayout.of(layer.geometry, precisions[layer.layer]).page_bytes
            for layer, kept in self._held
        )

    def why_not_by(self, layers: tuple[CacheLayer, ...]) -> str:
        """Why an engine with the cache layers ``layers`` of its model cannot go on from it.

        Empty where it can, and where no cache was saved.
        """
        if self.state is None:
            return ""
        try:
            regrouped(self.state, regrouping(self.cache_layers, layers), layers)
        except RegroupingError as error:
            return f"it was saved with other budgets for KV heads: {error}, and share a cache there"
        return ""

    @property
    def _held(self) -> list[tuple[CacheLayer, int]]:
        if self.state is None:
            return []
        lengths = (layer.length for layer in self.state.layers)
        return list(zip(self.cache_layers, lengths, strict=True))


def read_session(path: Path) -> SessionContents:
    """What is in the session file at ``path``; it is read whole.

    Raises:
        SessionError: it is damaged, of another format, or not a session.
    """
    try:
        with open_tensors(path) as file:
            content = read_content(path, file)
            file.prove()
            identity = CacheIdentity.from_dict(content.get("identity"), path)
            model = cache_layers(identity.layers, undivided(identity.layers))
            saved = read_groups(content.get("cache_layers"), model)
            state = read_state(file, content, saved, identity.vocab_size)
            layouts = list(map(CacheLayout.of, identity.layers, identity.precisions))
            check_pages(file, state, saved, page_shapes_of(layouts))
            return SessionContents(
                version=int(file.metadata["version"]),
                about=content.get("about", {}),
                identity=identity,
                cache_layers=saved,
                state=state,
                settings=_mapping(content.get("kv_cache_config")),
                gate=str(content.get("gate", "")),
                made_with=_mapping(content.get("made_with")),
            )
    except OSError as error:
        raise SessionError(f"cannot read {path}: {error.strerror}") from error
    except (DamagedFileError, StateError) as error:
        raise unusable_session(path, str(error)) from error


def _mapping(stored: Any) -> dict[str, Any]:
    return stored if isinstance(stored, dict) else {}
