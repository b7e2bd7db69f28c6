"""Conversations by session key: each has a cache of its own, warm in memory or kept in a file.

A client sends its whole history with every request. What a chat has cached of it is gone on from.
Where it differs, since a message was edited, it is read anew from there, or from an earlier cut.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ov_kvcrush.errors import EngineClosedError
from ov_kvcrush.serve.chat_file import ChatFile
from ov_kvcrush.serve.chat_files import ChatFiles
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.async_chat import AsyncChat
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.runtime.sequences.session import Session

SAVE_AFTER = 5.0
"""Seconds that a chat idles before it is saved."""

# Seconds until what could not be saved is tried again, and between two looks for old files.
_AGAIN = 10.0
_LOOK_FOR_OLD = 3600.0


@dataclass(eq=False)
class _Kept:
    """A chat that is known.

    Attributes:
        chat: what it holds.
        file: where it is kept; None where it is in memory alone.
        used_at: when its last turn ended, in nanoseconds, after that of any state it went on from.
        idle_since: the same by ``time.monotonic()``.
        busy: a turn has begun and not ended.
        is_saved: nothing has changed since it was.
        again_at: not to be saved before, by ``time.monotonic()``.
    """

    chat: AsyncChat
    file: ChatFile | None
    used_at: int = 0
    idle_since: float = field(default_factory=time.monotonic)
    busy: bool = False
    is_saved: bool = True
    again_at: float = 0.0

    @property
    def session(self) -> Session:
        """Its cache."""
        return self.chat.chat.session

    def end_turn(self) -> None:
        """It was used until now."""
        self.busy = False
        self.idle_since = time.monotonic()
        self.used_at = max(time.time_ns(), self.used_at + 1)
        self.is_saved = False


class ChatTurn:
    """A request that a chat is answering; until it ends, no other one goes on from the chat."""

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept
        self._has_ended = False

    @property
    def session(self) -> Session:
        """The cache to go on from and to leave the answer in, for the pipeline."""
        return self._kept.session

    async def end(self, messages: Sequence[Mapping[str, Any]], answer_text: str | None) -> None:
        """Let the next request go on from here.

        Args:
            messages: of the request, as the pipeline was given them; what is saved of them is
                role and content.
            answer_text: that follows them; None where the answer was broken off. Then the
                conversation is what it was before, whatever its cache has read since.
        """
        if self._has_ended:
            return
        self._has_ended = True
        self._kept.end_turn()
        if answer_text is not None and self._kept.file is not None:
            said = [{"role": one["role"], "content": one["content"]} for one in messages]
            said.append({"role": "assistant", "content": answer_text})
            self._kept.chat.chat.replace_messages(said)


class Chats:
    """The chats of one server; for its event loop alone.

    Args:
        pipeline: answers.
        settings: how many chats are known for how long, and where they are kept.
        save_after: seconds that a chat idles before it is saved.

    Raises:
        UnsupportedError: the pipeline's engine keeps no caches that could be saved.
        ConfigError: the folder for them cannot be made.
    """

    def __init__(
        self, pipeline: AsyncLLMPipeline, settings: ServeSettings, save_after: float = SAVE_AFTER
    ) -> None:
        self._pipeline = pipeline
        self._max_kept = settings.max_sessions
        self._seconds = settings.session_seconds
        self._save_after = save_after
        folder = settings.session_dir
        self._files = None if folder is None else ChatFiles(pipeline, folder)
        # Those used longest ago first.
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self._looked_for_old_at = -_LOOK_FOR_OLD
        self._saving = asyncio.Lock()

    def __len__(self) -> int:
        """Chats that are known."""
        return len(self._kept)

    async def begin(self, key: str, owner: str) -> ChatTurn | None:
        """Have a request go on from the chat with ``key`` of ``owner``, a new one where it is new.

        None where it is still answering, and where no more chats may be known: then the request
        is answered without.
        """
        name = (owner, key)
        kept = self._kept.get(name)
        if kept is None:
            if not self._make_room():
                return None
            file = None if self._files is None else self._files.file_of(key, owner)
            kept = self._kept[name] = _Kept(self._pipeline.chat(owner=owner), file)
        elif kept.busy:
            return None
        kept.busy = True
        self._kept.move_to_end(name)
        try:
            await self._take_up(kept)
        except BaseException:
            kept.busy = False
            raise
        return ChatTurn(kept)

    async def save_idle(self) -> None:
        """Save what has idled long enough, forget what has idled too long; every few seconds."""
        async with self._saving:
            for name, kept in list(self._kept.items()):
                now = time.monotonic()
                idle = now - kept.idle_since
                if kept.busy or self._kept.get(name) is not kept:
                    continue
                if idle >= self._seconds:
                    self._forget(name)
                elif idle >= self._save_after and now >= kept.again_at:
                    await self._save(kept)
            now = time.monotonic()
            if self._files is not None and now - self._looked_for_old_at >= _LOOK_FOR_OLD:
                self._looked_for_old_at = now
                await self._files.remove_old()

    async def save_all(self) -> None:
        """Save every chat: the server is about to end, and answers no more requests."""
        async with self._saving:
            for kept in list(self._kept.values()):
                if not await self._save(kept):
                    await asyncio.sleep(0.2)  # another server may just be writing the same one
                    await self._save(kept)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _take_up(self, kept: _Kept) -> None:
        """Go on from the file where nothing is cached here, or another server has gone on."""
        if kept.file is None:
            return
        has_cache = kept.session.sequence is not None
        found = await kept.file.load(kept.used_at if has_cache else -1)
        if found is None:
            return
        before, kept.chat = kept.chat, found
        kept.used_at, kept.is_saved = kept.file.used_at, True
        self._later(self._close(before))

    async def _save(self, kept: _Kept) -> bool:
        """Save what has changed; False where it is to be tried again."""
        if kept.file is None or kept.is_saved or not kept.chat.messages:
            return True
        used_at = kept.used_at
        is_done = await kept.file.save(kept.chat, used_at)
        if is_done and kept.used_at == used_at:
            kept.is_saved = True
        kept.again_at = 0.0 if is_done else time.monotonic() + _AGAIN
        return is_done

    def _make_room(self) -> bool:
        """Forget the chats used longest ago until one more may be known; False if all answer."""
        while len(self._kept) >= self._max_kept:
            oldest = next((name for name, kept in self._kept.items() if not kept.busy), None)
            if oldest is None:
                return False
            self._forget(oldest)
        return True

    def _forget(self, name: tuple[str, str]) -> None:
        kept = self._kept.pop(name)

        async def end() -> None:
            await self._save(kept)
            await self._close(kept.chat)

        self._later(end())

    async def _close(self, chat: AsyncChat) -> None:
        with suppress(EngineClosedError):
            await chat.close()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
