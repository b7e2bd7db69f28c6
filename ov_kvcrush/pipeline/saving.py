"""Chats and cached prefixes as session files: what is saved beside the cache, and what is not."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ov_kvcrush.errors import ConfigError, OVKVCrushError, SessionError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.runtime.session_files.sequence_state import SequenceState
from ov_kvcrush.runtime.session_files.session_file import read_about, unusable_session
from ov_kvcrush.runtime.session_files.session_lock import session_lock
from ov_kvcrush.runtime.session_files.stored_session import StoredSession

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.loaded_model import LoadedModel
    from ov_kvcrush.runtime.interface import Engine

CHAT, PREFIX = "chat", "prefix"

# Between looking at a file and replacing it; other processes are kept out by the session's lock.
_saving = threading.Lock()


@dataclass(frozen=True)
class SessionSummary:
    """What a session file holds.

    Attributes:
        kind: ``chat`` or ``prefix``.
        num_tokens: that its cache has read; 0 where the cache had been given up.
        num_kept: that a KV head holds of them, on average.
        file_bytes: size of the file.
        is_as_it_was: the file had the same messages, and may have a KV cache, which was not here.
    """

    kind: str
    num_tokens: int
    num_kept: int
    file_bytes: int
    is_as_it_was: bool = False


def save(engine: Engine, path: Path, what: Chat | CachedPrefix, overwrite: bool) -> SessionSummary:
    """Save ``what``. See :meth:`LLMPipeline.save_session`."""
    about = _about(what)
    if what.session.busy:
        raise SessionError("the session is still answering", "Save it when the answer has ended.")
    with session_lock(path), _saving:
        if os.path.exists(path) and not overwrite:
            _require_replaceable(path, what, about["kind"])
        is_there = isinstance(what, Chat) and _says_as_much(path, what, about)
        if not is_there:
            engine.save_session(what.session, path, about)
            if isinstance(what, Chat):
                _, what.files[_real(path)] = read_about(path)
    sequence = what.session.sequence
    return SessionSummary(
        about["kind"],
        0 if sequence is None else sequence.num_cached,
        0 if sequence is None else sequence.num_kept,
        path.stat().st_size,
        is_there,
    )


def load(model: LoadedModel, path: Path, owner: str = "") -> Chat | CachedPrefix:
    """Load what is at ``path``; to be called with the model's lock held.

    See :meth:`LLMPipeline.load_session`.
    """
    with model.engine.open_session(path) as stored:
        what: Chat | CachedPrefix
        if require_kind(stored.about, path) == CHAT:
            what = _read_chat(model, stored)
        else:
            what = _read_prefix(model, stored, path)
        what.session.owner = owner
        model.engine.load_session(stored, what.session)
        if isinstance(what, Chat):
            what.files[_real(path)] = stored.digest
    return what


def saved_kind(path: Path) -> str:
    """``chat`` or ``prefix``, as the file at ``path`` says; the rest of it is not looked at.

    Raises:
        SessionError: it is not a session file.
    """
    about, _ = read_about(path)
    return str(about.get("kind"))


def require_kind(about: dict[str, Any], path: Path) -> str:
    """``chat`` or ``prefix``: what the session file at ``path`` says ``about`` itself, checked.

    Raises:
        SessionError: it is neither, or does not say what it is of.
    """
    kind = about.get("kind")
    if kind not in (CHAT, PREFIX):
        raise unusable_session(path, f"it is neither a chat nor a prefix, but {kind!r}")
    if kind == CHAT and not are_messages(about.get("messages")):
        raise unusable_session(path, "its messages are not objects of role and content")
    text, system_message = (about.get(name) for name in ("text", "system_message"))
    is_of_text = isinstance(text, str) and text and isinstance(system_message, str)
    if kind == PREFIX and not is_of_text:
        raise unusable_session(path, "it does not say which text it is of")
    return str(kind)


def require_read(state: SequenceState | None, path: Path) -> SequenceState:
    """``state`` of a prefix; SessionError where its cache has not read all of its text."""
    if state is None or state.num_cached != len(state.tokens):
        raise unusable_session(path, "its cache has not read all of its text")
    return state


def are_messages(messages: object) -> TypeGuard[list[dict[str, str]]]:
    """Whether ``messages`` are a list of objects of role and content."""
    return isinstance(messages, list) and all(
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and all(isinstance(part, str) for part in message.values())
        for message in messages
    )


def _about(what: Chat | CachedPrefix) -> dict[str, Any]:
    if isinstance(what, CachedPrefix):
        if what.session.sequence is None:
            raise SessionError(
                "the cached prefix is closed or was given up", "Make it again with cache_prefix."
            )
        return {"kind": PREFIX, "text": what.text, "system_message": what.system_message}
    if not isinstance(what, Chat):
        raise ConfigError(
            f"a session is a chat or a cached prefix, not a {type(what).__name__}",
            "Give what chat() or cache_prefix() made.",
        )
    if not any(message["role"] == "user" for message in what.messages):
        raise SessionError("nothing has been said yet that could be saved", "Ask something first.")
    return {"kind": CHAT, "messages": what.messages}


def _require_replaceable(path: Path, what: Chat | CachedPrefix, kind: str) -> None:
    try:
        there, digest = read_about(path)
    except OVKVCrushError:
        raise SessionError(
            f"{path} exists and is not a saved session", "Choose another name."
        ) from None
    if there.get("kind") != kind:
        raise SessionError(
            f"{path} is a saved {there.get('kind')} and is not replaced by a {kind}",
            "Choose another name.",
        )
    # A document can be read again; what was said in a chat is nowhere else.
    if isinstance(what, Chat) and digest != what.files.get(_real(path)):
        reason = (
            "was changed by another chat since this one was loaded from it or saved to it"
            if _real(path) in what.files
            else "holds another chat"
        )
        raise SessionError(f"{path} {reason}", "Choose another name, or overwrite it on purpose.")


def _says_as_much(path: Path, chat: Chat, about: dict[str, Any]) -> bool:
    """Whether the file that is ``chat``'s has its messages, and ``chat`` has no cache to add.

    A cache that could not be gone on from here can be where the chat was saved.
    """
    digest = chat.files.get(_real(path))
    if chat.session.sequence is not None or digest is None:
        return False
    try:
        return read_about(path) == (about, digest)
    except OVKVCrushError:
        return False


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _read_chat(model: LoadedModel, stored: StoredSession) -> Chat:
    chat = Chat(model)
    chat.replace_messages(stored.about["messages"])
    return chat


def _read_prefix(model: LoadedModel, stored: StoredSession, path: Path) -> CachedPrefix:
    if stored.lost:
        raise SessionError(
            f"the cache in {path} cannot be gone on from: {stored.lost}",
            "Load the model with the head budgets and KV plan of then, or crush the text again.",
        )
    state = require_read(stored.state, path)
    text, system_message = (stored.about[name] for name in ("text", "system_message"))
    encoder, close_session = model.reader.encoder, model.close_session
    prefix = CachedPrefix(
        encoder, close_session, text, system_message, stored.token_ids, state.is_thorough
    )
    if encoder.encode(prefix.beginning) != prefix.token_ids:
        raise SessionError(
            f"{path} was saved with another tokenizer or chat template: its text has other tokens",
            "Load the model with the tokenizer, and parse_special as, it was saved with.",
        )
    return prefix
