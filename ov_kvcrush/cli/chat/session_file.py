"""The session file of a chat: what the chat begins with, and what is saved of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.cli.output.stats_line import megabytes
from ov_kvcrush.errors import ConfigError, OVKVCrushError, SessionError, UnsupportedError
from ov_kvcrush.runtime.session_files.session_lock import session_lock
from ov_kvcrush.signals import deferred_signals

if TYPE_CHECKING:
    from ov_kvcrush.cli.chat.conversation import Conversation
    from ov_kvcrush.pipeline.chat import Chat
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

_SUFFIX = ".safetensors"


def is_session_name(path: Path) -> bool:
    """Whether a file of this name is a session: it ends in ``.safetensors``."""
    return path.suffix == _SUFFIX


def check_session_file(path: Path, engine: str = "paged", is_written: bool = True) -> None:
    """Refuse, before a model is loaded, what no session could be read from or written to later.

    Raises:
        ConfigError: the name does not end as those of sessions do.
        SessionError: its folder is missing or may not be written.
        UnsupportedError: ``engine`` cannot save or load sessions.
    """
    if engine != "paged":
        raise UnsupportedError(
            f"the {engine} engine cannot save or load sessions", "Leave --engine out, or --session."
        )
    if not is_session_name(path):
        raise ConfigError(
            f"{path} is not named like a session file", f"Choose a name that ends in {_SUFFIX}."
        )
    folder = Path(os.path.realpath(path)).parent
    if not os.path.isdir(folder):
        raise SessionError(f"there is no folder {folder} for {path.name}", "Make it first.")
    if is_written and not os.access(folder, os.W_OK):
        raise SessionError(f"nothing can be written in {folder}", "Choose another folder.")


def load_chat(pipeline: LLMPipeline, path: Path) -> tuple[Chat, str]:
    """The chat in the file at ``path``, or one behind the document in it; and a note about it.

    Raises:
        SessionError: as ``LLMPipeline.load_session``.
    """
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix

    loaded = pipeline.load_session(path)
    if isinstance(loaded, CachedPrefix):
        return pipeline.chat(prefix=loaded), (
            f"{path} holds a document of {len(loaded.token_ids):,} tokens, already read: "
            "ask about it."
        )
    sequence = loaded.session.sequence
    messages = count_messages(loaded)
    if sequence is not None:
        cache = _kv_cache(sequence.num_kept, sequence.num_cached)
        return loaded, f"Loaded {messages} with {cache}, from {path}."
    why = f": {loaded.session.lost}" if loaded.session.lost else ""
    return loaded, (
        f"Loaded {messages} without a KV cache, from {path}{why}. "
        "The next turn reads the history anew."
    )


def save_chat(conversation: Conversation, path: Path) -> str:
    """Save the chat to the file at ``path``; a note about it.

    Raises:
        SessionError: as ``LLMPipeline.save_session``.
    """
    summary = conversation.pipeline.save_session(path, conversation.chat)
    messages = count_messages(conversation.chat)
    if summary.is_as_it_was:
        return f"{path} has these {messages} already: it stays as it is."
    if not summary.num_tokens:
        return (
            f"Saved {messages} to {path}, without a KV cache: it had been given up. "
            "The next turn after loading reads the history anew."
        )
    return (
        f"Saved {messages} with {_kv_cache(summary.num_kept, summary.num_tokens)}, to {path}: "
        f"{megabytes(summary.file_bytes)}."
    )


def _kv_cache(num_kept: int, num_tokens: int) -> str:
    return f"the KV cache, {num_kept:,} of {num_tokens:,} tokens"


def count_messages(chat: Chat) -> str:
    """How many messages ``chat`` has, in words."""
    count = len(chat.messages)
    return f"{count} message{'' if count == 1 else 's'}"


class SessionFile:
    """What ``--session FILE`` does; without it, nothing.

    A chat's file is held while the ``with`` lasts, so that no other program writes to it; a
    document, which is never written to, may serve many chats at once.

    Args:
        path: the file, or None.
        engine: name of the engine.

    Raises:
        ConfigError, SessionError, UnsupportedError: as :func:`check_session_file`, before a model
            is loaded; on entering, SessionError where another program holds the file.
    """

    def __init__(self, path: Path | None, engine: str) -> None:
        self._path = path
        self._note = ""
        self._is_document = path is not None and _is_document(path)
        self._holds = ExitStack()
        if path is not None:
            check_session_file(path, engine, is_written=not self._is_document)

    def __enter__(self) -> SessionFile:
        """Hold the file, unless it is a document's."""
        if self._path is not None and not self._is_document:
            self._holds.enter_context(session_lock(self._path))
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file."""
        self._holds.close()

    def load(self, pipeline: LLMPipeline, system_message: str) -> Chat | None:
        """The chat to go on with; None for a new one.

        Raises:
            SessionError: the file cannot be gone on from; it stays as it is.
            ConfigError: it has another system message than was asked for.
        """
        if self._path is None or not os.path.lexists(self._path):
            return None
        chat, self._note = load_chat(pipeline, self._path)
        own = "".join(m["content"] for m in chat.messages if m["role"] == "system")
        if system_message and system_message != own:
            raise ConfigError(
                f"--system is not the system message of {self._path}", "Leave --system out."
            )
        self._is_document = chat.prefix is not None
        return chat

    @property
    def saves(self) -> bool:
        """Whether the chat is saved at its end."""
        return self._path is not None and not self._is_document

    @contextmanager
    def saved_at_end(
        self, conversation: Conversation, show: Callable[[str], None]
    ) -> Iterator[None]:
        """Save the chat when the ``with`` ends, however it does; ``show`` gets notes about it.

        A document is never replaced by a chat about it.
        """
        if self._path is None:
            yield
            return
        if self._note:
            show(self._note)
        if self._is_document:
            show(f"The chat is not saved to {self._path}: /save OTHER{_SUFFIX} keeps it.")
            yield
            return
        before = list(conversation.chat.messages)
        try:
            yield
        finally:
            if conversation.chat.messages != before:
                _save_at_end(conversation, self._path, show)


def _save_at_end(conversation: Conversation, path: Path, show: Callable[[str], None]) -> None:
    if not any(message["role"] == "user" for message in conversation.chat.messages):
        show(f"There is nothing to save; {path} is as it was.")
        return
    with deferred_signals():  # who presses Ctrl+C once more does not lose what was said
        try:
            show(save_chat(conversation, path))
        except SessionError:
            # Nobody can be asked any more: the chat is kept beside it, and then the reason is told.
            show(save_chat(conversation, _unused_name(path)))
            raise


def _unused_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(name for name in names if not os.path.lexists(name))


def _is_document(path: Path) -> bool:
    """Whether ``path`` is a crushed document; what cannot be read is told when it is loaded."""
    from ov_kvcrush.pipeline.saving import PREFIX, saved_kind

    try:
        return os.path.exists(path) and saved_kind(path) == PREFIX
    except OVKVCrushError:
        return False
