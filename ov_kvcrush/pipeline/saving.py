"""Chats and cached prefixes to session files: what is saved beside the cache, and what is not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ov_kvcrush.errors import ConfigError, OVKVCrushError, SessionError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.runtime.session_files.held_session import HeldSession
from ov_kvcrush.runtime.session_files.sequence_state import SequenceState
from ov_kvcrush.runtime.session_files.session_file import read_about, unusable_session
from ov_kvcrush.runtime.session_files.session_lock import session_lock

if TYPE_CHECKING:
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


class Saving:
    """A chat or prefix as it was at one moment, on its way to a file; its ``with`` lets go of it.

    Args:
        what: to be saved.
        held: what its session had cached then.
        when_closed: called when it has been let go of.

    Raises:
        SessionError: there is nothing to save.
    """

    def __init__(
        self,
        what: Chat | CachedPrefix,
        held: HeldSession,
        when_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._what = what
        self._held = held
        self._about = _about(what)
        self._when_closed = when_closed

    @property
    def has_cache(self) -> bool:
        """Whether anything was cached."""
        return not self._held.is_empty

    def write(self, path: Path, overwrite: bool = False) -> SessionSummary:
        """Write it. See :meth:`LLMPipeline.save_session`; in any thread, the engine may go on.

        Raises:
            SessionError: as there, or its cache was given up for others meanwhile.
        """
        what, about = self._what, self._about
        with session_lock(path), _saving:
            if os.path.exists(path) and not overwrite:
                _require_replaceable(path, what, about["kind"])
            is_there = self._says_as_much(path)
            if not is_there:
                self._held.write(path, about)
                if isinstance(what, Chat):
                    _, what.files[real_path(path)] = read_about(path)
        return SessionSummary(
            about["kind"],
            self._held.num_tokens,
            self._held.num_kept,
            path.stat().st_size,
            is_there,
        )

    def __enter__(self) -> Saving:
        """This one."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the pages; what another thread is writing is given up."""
        self._held.close()
        self._when_closed()

    def _says_as_much(self, path: Path) -> bool:
        """Whether the file that is a chat's has its messages, and the chat has no cache to add.

        A cache that could not be gone on from here can be where the chat was saved.
        """
        digest = self._what.files.get(real_path(path)) if isinstance(self._what, Chat) else None
        if self.has_cache or digest is None:
            return False
        try:
            return read_about(path) == (self._about, digest)
        except OVKVCrushError:
            return False


def save(engine: Engine, path: Path, what: Chat | CachedPrefix, overwrite: bool) -> SessionSummary:
    """Save ``what``, with the engine at rest. See :meth:`LLMPipeline.save_session`."""
    with hold(engine, what) as saving:
        return saving.write(path, overwrite)


def hold(
    engine: Engine, what: Chat | CachedPrefix, when_closed: Callable[[], None] = lambda: None
) -> Saving:
    """``what`` as it is now, for any thread to write; to be called with the engine at rest.

    Raises:
        SessionError: there is nothing to save, or it is still answering.
        UnsupportedError: the engine keeps no caches.
    """
    _about(what)
    if what.session.busy:
        raise SessionError("the session is still answering", "Save it when the answer has ended.")
    return Saving(what, engine.hold_session(what.session), when_closed)


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
    if isinstance(what, Chat) and digest != what.files.get(real_path(path)):
        reason = (
            "was changed by another chat since this one was loaded from it or saved to it"
            if real_path(path) in what.files
            else "holds another chat"
        )
        raise SessionError(f"{path} {reason}", "Choose another name, or overwrite it on purpose.")


def real_path(path: Path) -> Path:
    """What a chat knows its file by, whatever links lead there."""
    return Path(os.path.realpath(path))
