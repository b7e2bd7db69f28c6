"""Conversations known by their text alone: whose cache does a longer history go on from?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ov_kvcrush.runtime.generation.request import Session

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

# Caches kept at the same time; the engine gives up their pages earlier where they are short.
_MAX_KEPT = 16


class KeptHistories:
    """The sessions of the last histories, found again by what they say.

    Args:
        tokenizer: turns cached tokens back into text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._sessions: list[Session] = []

    def session_for(self, text: str) -> tuple[Session, list[Session]]:
        """The session whose conversation ``text`` continues, else a new one.

        Beside it the sessions that are no longer kept: what they hold is the caller's to free.
        """
        for session in reversed(self._sessions):
            cached = session.token_ids
            if cached and text.startswith(
                self._tokenizer.decode(cached, skip_special_tokens=False)
            ):
                self._sessions.remove(session)
                break
        else:
            session = Session()
        self._sessions.append(session)
        dropped, self._sessions = self._sessions[:-_MAX_KEPT], self._sessions[-_MAX_KEPT:]
        return session, dropped
