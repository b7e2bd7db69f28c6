"""The file of one chat: taken up where it is newer, replaced where it is not.

Its modification time is when the chat was last used. By it servers that share a folder tell whose
state is the newer one.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.errors import (
    EngineClosedError,
    OVKVCrushError,
    SessionRoomError,
    last_line,
)
from ov_kvcrush.pipeline.async_chat import AsyncChat
from ov_kvcrush.pipeline.saving import CHAT
from ov_kvcrush.runtime.session_files.session_lock import session_lock

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.pipeline.saving import Saving

# Between looking at a file and replacing it; other processes are kept out by the session's lock.
_writing = threading.Lock()


@dataclass(frozen=True)
class Stamp:
    """What tells a file from one that was there before.

    Attributes:
        used_at: when its chat was last used, in nanoseconds, as ``time.time_ns()``.
        num_bytes: of it.
        inode: of it.
    """

    used_at: int
    num_bytes: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """None where there is no file."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_mtime_ns, found.st_size, found.st_ino)


class ChatFile:
    """Where one chat is kept, and what is known of the file.

    Args:
        pipeline: saves and loads it.
        path: of the file, which may not be there.
        owner: whose chat it is.
        say_once: told what is wrong with it; the same line goes to the log once.
    """

    def __init__(
        self,
        pipeline: AsyncLLMPipeline,
        path: Path,
        owner: str,
        say_once: Callable[[str], None],
    ) -> None:
        self._pipeline = pipeline
        self._path = path
        self._owner = owner
        self._say_once = say_once
        self._known: Stamp | None = None
        self._left_alone: Stamp | None = None

    @property
    def used_at(self) -> int:
        """When the chat that was loaded or saved last had been used; 0 where none was."""
        return 0 if self._known is None else self._known.used_at

    async def load(self, newer_than: int) -> AsyncChat | None:
        """The chat in the file, with its cache; None where it is not to be had.

        A file that cannot be gone on from is left alone.

        Args:
            newer_than: when the chat that is there already was last used, in nanoseconds.
        """
        stamp = await asyncio.to_thread(Stamp.of, self._path)
        if stamp is None or stamp.used_at <= newer_than or stamp == self._left_alone:
            return None
        try:
            chat = await self._pipeline.load_session(self._path, self._owner)
        except EngineClosedError:
            return None
        except SessionRoomError as error:
            self._say_once(f"a chat is read anew: {error.message}")
            return None
        except OVKVCrushError as error:
            if await asyncio.to_thread(Stamp.of, self._path) == stamp:
                self._leave_alone(stamp, error.message)
            return None
        if not isinstance(chat, AsyncChat):
            self._leave_alone(stamp, f"{self._path} is not a chat")
            return None
        if lost := chat.chat.session.lost:
            self._leave_alone(stamp, f"the cache in {self._path} cannot be gone on from: {lost}")
            return None
        self._known = stamp
        return chat

    async def save(self, chat: AsyncChat, used_at: int) -> bool:
        """Put ``chat`` into the file, unless what is there is newer or cannot be gone on from here.

        Args:
            chat: at rest; without a cache it has nothing that the file needs.
            used_at: when it was last used, in nanoseconds.

        Returns:
            Whether nothing is left to be done; else it is to be tried again.
        """
        try:
            with await self._pipeline.hold_session(chat) as saving:
                if saving.has_cache:
                    await asyncio.to_thread(self._write, saving, used_at)
        except EngineClosedError:
            return False
        except OVKVCrushError as error:
            self._say_once(f"a chat is not saved yet: {error.message}")
            return False
        except OSError as error:
            self._say_once(f"a chat is not saved yet: {last_line(error)}")
            return False
        return True

    def _write(self, saving: Saving, used_at: int) -> None:
        path = self._path
        with session_lock(path), _writing:
            there = Stamp.of(path)
            if there is None or self._may_replace(there, used_at):
                saving.write(path, overwrite=True)
                os.utime(path, ns=(used_at, used_at))
                self._known = Stamp.of(path)

    def _may_replace(self, there: Stamp, used_at: int) -> bool:
        if there == self._left_alone or there.used_at > used_at:
            return False
        if there == self._known:
            return True
        try:
            kind = self._pipeline.require_usable_session(self._path)
        except OVKVCrushError as error:
            self._leave_alone(there, error.message)
            return False
        if kind != CHAT:
            self._leave_alone(there, f"{self._path} is not a chat")
        return kind == CHAT

    def _leave_alone(self, stamp: Stamp, reason: str) -> None:
        self._left_alone = stamp
        self._say_once(f"{reason}; it is left alone, and its chat is read anew and not saved")
