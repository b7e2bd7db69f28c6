"""Texts that are read and crushed once, and then asked about by name."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ov_kvcrush.serve.errors import ApiError, invalid

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix

# Nobody else may have the pages of prefixes: so much of the pool is left for requests.
_MOST_OF_POOL = 0.75


@dataclass(frozen=True)
class NamedPrefix:
    """A cached prefix that requests of its owner begin with.

    Attributes:
        id: its name, which nobody can guess.
        owner: name of the API key it was made with.
        created: seconds, as ``time.time()``.
        num_tokens: that were read.
        num_kept: that a KV head holds of them, on average.
        bytes: of its pages.
        prefix: for the pipeline.
    """

    id: str
    owner: str
    created: int
    num_tokens: int
    num_kept: int
    bytes: int
    prefix: CachedPrefix

    def begin(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """``messages`` with the text before the first one of a user.

        The system message that the text was read with is there too, whether they have it or not.

        Args:
            messages: of a request, with role and content; not changed.

        Raises:
            ApiError: they have another system message, or do not begin with a user's.
        """
        text, system_message = self.prefix.text, self.prefix.system_message
        begun = [dict(message) for message in messages]
        is_system = bool(begun) and begun[0]["role"] in ("system", "developer")
        if is_system and begun[0]["content"] != system_message:
            raise invalid(
                "the system message is not the one that the prefix was made with\n"
                "Leave it out, or make a prefix with it.",
                "messages.0.content",
            )
        if system_message and not is_system:
            begun.insert(0, {"role": "system", "content": system_message})
        first = begun[1 if system_message or is_system else 0 :][:1]
        if not first or first[0]["role"] != "user":
            raise invalid(
                "a conversation behind a prefix begins with a message of the user", "messages"
            )
        first[0]["content"] = text + first[0]["content"]
        return begun

    def to_dict(self) -> dict[str, Any]:
        """As requests are told of it."""
        return {
            "id": self.id,
            "object": "prefix",
            "created": self.created,
            "num_tokens": self.num_tokens,
            "num_kept": self.num_kept,
            "bytes": self.bytes,
        }


class NamedPrefixes:
    """The prefixes of one server, each for the requests of one API key; for its event loop alone.

    They stay until they are removed, or the server ends.

    Args:
        pipeline: reads them.
    """

    def __init__(self, pipeline: AsyncLLMPipeline) -> None:
        self._pipeline = pipeline
        self._prefixes: dict[str, NamedPrefix] = {}

    async def add(
        self, text: str, system_message: str = "", owner: str = "", thorough: bool = False
    ) -> NamedPrefix:
        """Read a text and keep it; ended with it where whoever awaits it is cancelled.

        Args:
            text: requests' first user messages will begin with it.
            system_message: before it.
            owner: whose requests may name it.
            thorough: read it twice, as :meth:`AsyncLLMPipeline.cache_prefix` does.

        Raises:
            ApiError: prefixes would take more of the pool than they may.
            OVKVCrushError: it cannot be read, is longer than the pool, or the engine keeps none.
        """
        prefix = await self._pipeline.cache_prefix(text, system_message, owner, thorough)
        metrics = prefix.metrics
        if metrics is None:
            raise RuntimeError("a prefix was read without any cost")
        named = NamedPrefix(
            id=f"prefix-{secrets.token_hex(16)}",
            owner=owner,
            created=int(time.time()),
            num_tokens=len(prefix.token_ids),
            num_kept=metrics.kv_tokens,
            bytes=metrics.kv_bytes,
            prefix=prefix,
        )
        try:
            self._require_room(named)
        except ApiError:
            await self._pipeline.close_session(prefix.session)
            raise
        self._prefixes[named.id] = named
        return named

    def get(self, id: str, owner: str) -> NamedPrefix:
        """The prefix called ``id``.

        Raises:
            ApiError: 404, where ``owner`` has none of that name.
        """
        named = self._prefixes.get(id)
        if named is None or named.owner != owner:
            raise ApiError(
                404,
                f"there is not a prefix {id!r:.100}\nMake it with POST /v1/prefixes.",
                code="prefix_not_found",
                param="prefix",
            )
        return named

    def of(self, owner: str) -> list[NamedPrefix]:
        """Those of ``owner``, the oldest first."""
        return [named for named in self._prefixes.values() if named.owner == owner]

    async def remove(self, id: str, owner: str) -> None:
        """Forget a prefix and free its pages; answers that have begun with it go on.

        Raises:
            ApiError: 404, as :meth:`get`.
        """
        named = self.get(id, owner)
        del self._prefixes[id]
        await self._pipeline.close_session(named.prefix.session)

    def __len__(self) -> int:
        """Prefixes of all owners."""
        return len(self._prefixes)

    def _require_room(self, named: NamedPrefix) -> None:
        pool = self._pipeline.snapshot().pool_bytes
        taken = sum(one.bytes for one in self._prefixes.values())
        if taken + named.bytes > _MOST_OF_POOL * pool:
            raise invalid(
                f"the prefix takes {named.bytes / 1e6:,.1f} MB, and prefixes may have "
                f"{_MOST_OF_POOL * pool / 1e6:,.1f} MB of the pool's {pool / 1e6:,.1f} together, "
                f"of which {taken / 1e6:,.1f} are taken\n"
                "Remove one, shorten the text, or give the server a budget or a larger pool.",
                code="no_room",
            )
