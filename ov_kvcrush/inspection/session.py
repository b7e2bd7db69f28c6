"""A session file by itself, and whether a model could go on from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, SessionError
from ov_kvcrush.inspection.model import InspectedModel
from ov_kvcrush.pipeline.saving import PREFIX, require_kind, require_read
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.eviction.forecast import CacheForecast
from ov_kvcrush.runtime.session_files.cache_identity import CacheIdentity
from ov_kvcrush.runtime.session_files.session_contents import SessionContents, read_session


@dataclass(frozen=True, eq=False)
class InspectedSession:
    """A chat or a document that was saved with its cache.

    Attributes:
        path: of the file.
        contents: what it says, proved.
        file_bytes: its size.
        written: when it was, in seconds since 1970.
    """

    path: Path
    contents: SessionContents
    file_bytes: int
    written: float

    @property
    def kind(self) -> str:
        """``chat`` or ``prefix``."""
        return str(self.contents.about["kind"])

    @property
    def messages(self) -> list[dict[str, str]]:
        """Of a chat, role and content of each; empty for a document."""
        return list(self.contents.about.get("messages", ()))

    @property
    def text(self) -> str:
        """Of a document; empty for a chat."""
        return str(self.contents.about.get("text", ""))

    @property
    def num_tokens(self) -> int:
        """Tokens that its cache has read; 0 where no cache was saved."""
        return self.contents.state.num_cached if self.contents.state else 0


@dataclass(frozen=True)
class Fit:
    """Whether a model can go on from a session.

    Attributes:
        reason: why it cannot; empty where it can.
        same_gate: whether its gate is the one that scored the tokens; None where none did.
    """

    reason: str
    same_gate: bool | None


def inspect_session(path: Path) -> InspectedSession:
    """The session in the file at ``path``, which is read whole and proved.

    Raises:
        SessionError: it is damaged, or not a session.
    """
    contents = read_session(path)
    if require_kind(contents.about, path) == PREFIX:
        require_read(contents.state, path)
    file = path.stat()
    return InspectedSession(path, contents, file.st_size, file.st_mtime)


def fit_of(session: InspectedSession, model: InspectedModel) -> Fit:
    """Whether ``model``, loaded with the settings of the session's cache, can go on from it.

    What its tokenizer and chat template make of the text is not looked at.
    """
    saved, plan = session.contents, model.plan
    digest = model.gate.digest if model.gate else ""
    same_gate = digest == saved.gate if saved.gate else None
    config = config_of(saved.settings) or KVCacheConfig()
    precisions = tuple(_stored_by(config, layer) for layer in plan.precisions)
    own = CacheIdentity(plan.fingerprint, saved.identity.vocab_size, plan.layers, precisions)
    try:
        own.require(saved.identity.to_dict(), session.path)
        forecast = CacheForecast(config, plan.layers, precisions, plan.head_shares)
    except (SessionError, ConfigError) as error:
        reason = error.message
        return Fit(reason.replace(f"{session.path} ", "it ", 1), same_gate)
    return Fit(saved.why_not_by(forecast.cache_layers), same_gate)


def config_of(settings: dict[str, Any]) -> KVCacheConfig | None:
    """The cache's settings that a session file tells; None for those of another release."""
    try:
        return KVCacheConfig.from_dict(settings)
    except (ConfigError, TypeError, ValueError):
        return None


def _stored_by(config: KVCacheConfig, planned: LayerPrecision) -> LayerPrecision:
    """What an engine of ``config`` stores a layer in, as a session file tells it."""
    key, value = config.key_cache_precision, config.value_cache_precision
    if key is None and value is None:
        return replace(planned, key_group_size=0)
    if key is not None and value is not None:
        return LayerPrecision(key, value)
    return LayerPrecision(key or planned.key, value or planned.value)
