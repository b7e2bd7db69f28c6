"""The folder in which servers keep idle chats: a file each, removed when it is old."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.errors import SessionError
from ov_kvcrush.runtime.session_files.session_lock import session_lock
from ov_kvcrush.serve.chat_file import ChatFile, Stamp
from ov_kvcrush.serve.chat_folder import make_chat_folder

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline

# A chat's file, and the hidden ones beside it that a killed process leaves: a lock, a part of one.
_OURS = re.compile(r"(chat-[0-9a-f]{40}\.safetensors)|\.(chat-[0-9a-f]{40}\.safetensors)\..+")
_MOST_SAID = 10_000
_WEEK_NS = 7 * 24 * 60 * 60 * 10**9

_log = logging.getLogger(__name__)


class ChatFiles:
    """The chats in one folder, which other servers may use too.

    Args:
        pipeline: saves and loads them.
        folder: made where it is not there, for its owner alone.

    Raises:
        UnsupportedError: the pipeline's engine keeps no caches.
        ConfigError: the folder cannot be made.
    """

    def __init__(self, pipeline: AsyncLLMPipeline, folder: Path) -> None:
        make_chat_folder(folder, pipeline.describe().engine)
        self._pipeline = pipeline
        self._folder = folder
        self._said: set[str] = set()

    def file_of(self, key: str, owner: str) -> ChatFile:
        """The file of the chat with ``key`` of ``owner``, which may not be there."""
        told_apart = json.dumps([owner, key]).encode()
        name = hashlib.blake2b(told_apart, digest_size=20).hexdigest()
        path = self._folder / f"chat-{name}.safetensors"
        return ChatFile(self._pipeline, path, owner, self._say_once)

    async def remove_old(self) -> None:
        """Remove what has not been used for a week: chats, and what killed processes have left."""
        await asyncio.to_thread(self._remove_old, time.time_ns() - _WEEK_NS)

    def _remove_old(self, before: int) -> None:
        try:
            names = {name for path in self._folder.iterdir() if (name := _name_of(path, before))}
        except OSError as error:
            self._say_once(f"{self._folder} cannot be looked through: {error.strerror}")
            return
        for name in names:
            # Held, nobody else is about to write it; the lock's own file goes with the holding.
            with suppress(OSError, SessionError), session_lock(self._folder / name):
                for path in [self._folder / name, *self._folder.glob(f".{name}.partial-*")]:
                    if _name_of(path, before):
                        path.unlink()

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            if len(self._said) >= _MOST_SAID:
                self._said.clear()
            self._said.add(line)
            _log.warning("%s", line)


def _name_of(path: Path, before: int) -> str:
    """Name of the chat's file that ``path`` is or belongs to; empty where it is another's, or new.

    Args:
        path: in the folder.
        before: when it must have been used last, in nanoseconds.
    """
    ours, stamp = _OURS.fullmatch(path.name), Stamp.of(path)
    if ours is None or stamp is None or stamp.used_at >= before:
        return ""
    return ours[1] or ours[2]
