"""From texts and histories to prompts, each with the cache that it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ov_kvcrush.pipeline.prompts import Prompt, encode_continuing, encode_prompt
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix

MAX_KEPT_HISTORIES = 64
"""Caches kept at a time; the engine gives up their pages earlier where they are short."""


class PromptReader:
    """Encodes what a model is to answer, and remembers the histories it has answered.

    Args:
        tokenizer: of the model.
        close_session: frees what a history that is no longer remembered holds.
        max_kept: histories that are remembered.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        close_session: Callable[[Session], None],
        max_kept: int = MAX_KEPT_HISTORIES,
    ) -> None:
        self._tokenizer = tokenizer
        self._close_session = close_session
        self._histories = _KeptHistories(tokenizer, max_kept)

    def read_text(self, text: str, config: GenerationConfig, prefix: CachedPrefix | None) -> Prompt:
        """A text as the user's one message, behind what ``prefix`` has read.

        Raises:
            PromptError: it is empty, or not text.
        """
        if prefix is None:
            return Prompt(encode_prompt(self._tokenizer, text, config))
        spelled = prefix.spell(self._tokenizer, text)
        ids = prefix.continue_with(self._tokenizer, spelled)
        return Prompt(ids, prefix=prefix.session)

    def read_history(
        self,
        text: str,
        config: GenerationConfig,
        session: Session | None,
        prefix: CachedPrefix | None,
    ) -> Prompt:
        """A templated history, and the session it goes on from; no request may begin meanwhile."""
        if session is None and prefix is None and config.num_return_sequences == 1:
            session, dropped = self._histories.session_for(text)
            for one in dropped:
                self._close_session(one)
        cached = [] if session is None else session.token_ids
        if prefix is not None and not cached:
            return Prompt(prefix.continue_with(self._tokenizer, text), session, prefix.session)
        return Prompt(encode_continuing(self._tokenizer, text, cached), session)


class _KeptHistories:
    """The sessions of the last histories, found again by what they say.

    Args:
        tokenizer: turns cached tokens back into text.
        max_kept: sessions that are kept.
    """

    def __init__(self, tokenizer: Tokenizer, max_kept: int) -> None:
        self._max_kept = max_kept
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
        first = max(0, len(self._sessions) - self._max_kept)
        dropped, self._sessions = self._sessions[:first], self._sessions[first:]
        return session, dropped
