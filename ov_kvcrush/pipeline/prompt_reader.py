"""From texts and histories to prompts, each with the cache that it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder, require_text
from ov_kvcrush.pipeline.prompts import Prompt
from ov_kvcrush.pipeline.rendered_text import RenderedText
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig

    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.runtime.sequences.sequence import Sequence

MAX_KEPT_HISTORIES = 64
"""Caches kept at a time; the engine gives up their pages earlier where they are short."""


class PromptReader:
    """Encodes what a model is to answer, and remembers the histories it has answered.

    Args:
        encoder: of the model.
        close_session: frees what a history that is no longer remembered holds.
        max_kept: histories remembered at the same time; the engine gives up their pages earlier
            where they are short.

    Attributes:
        encoder: of the model.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        close_session: Callable[[Session], None],
        max_kept: int = MAX_KEPT_HISTORIES,
    ) -> None:
        self.encoder = encoder
        self._close_session = close_session
        self._histories = _KeptHistories(encoder, max_kept)

    def read_text(self, text: str, config: GenerationConfig, prefix: CachedPrefix | None) -> Prompt:
        """A text as the user's one message, behind what ``prefix`` has read.

        Without a chat template, or where ``config`` says so, it is read as it is.

        Raises:
            PromptError: it is empty, or not text.
        """
        require_text(text, "the prompt")
        encoder = self.encoder
        if prefix is not None:
            ids = prefix.continue_with(encoder, prefix.render(encoder, text))
            return Prompt(ids, prefix=prefix.session)
        is_message = config.apply_chat_template and encoder.has_template
        message = [{"role": "user", "content": text}]
        return Prompt(
            encoder.encode(encoder.render(message) if is_message else encoder.plain(text))
        )

    def read_history(
        self,
        rendered: RenderedText,
        config: GenerationConfig,
        session: Session | None,
        prefix: CachedPrefix | None,
        owner: str = "",
    ) -> Prompt:
        """A templated history, and the session it goes on from; no request may begin meanwhile.

        Args:
            rendered: what :meth:`PromptEncoder.render` made of it.
            config: settings of its answer.
            session: to go on from; None looks among the histories answered before.
            prefix: that its first message begins with.
            owner: whose history it is: one goes on from that owner's only.

        Raises:
            ConfigError: ``config`` says that nothing is templated, which a history always is.
            PromptError: it does not begin with ``prefix``.
        """
        if not config.apply_chat_template:
            raise ConfigError(
                "apply_chat_template is off, and a history is read through the chat template",
                "Give a text instead, or leave apply_chat_template on.",
            )
        if session is None and prefix is None and config.num_return_sequences == 1:
            session, dropped = self._histories.session_for(rendered, owner)
            for one in dropped:
                self._close_session(one)
        cached = [] if session is None else session.token_ids
        ids = self.encoder.encode_continuing(rendered, cached)
        if ids is not None:
            return Prompt(ids, session)
        # A chat that was edited may not be gone on from; then the prefix is, where it still begins.
        if prefix is not None and (not cached or prefix.begins(rendered)):
            return Prompt(prefix.continue_with(self.encoder, rendered), session, prefix.session)
        return Prompt(self.encoder.encode(rendered), session)


@dataclass
class _History:
    """A conversation that was answered.

    Attributes:
        owner: whose it is.
        session: its cache.
        sequence: what ``session`` held when it was decoded.
        num_tokens: of it then.
        marked: what they read like; None where they are the beginning of nothing.
    """

    owner: str
    session: Session
    sequence: Sequence | None = None
    num_tokens: int = 0
    marked: str | None = None

    def begins(self, rendered: RenderedText, encoder: PromptEncoder) -> bool:
        """Whether what its cache has read is the beginning of ``rendered``.

        A chat of many turns takes milliseconds to decode, so that is done once after each turn.
        """
        sequence = self.session.sequence
        if sequence is None or self.session.busy or not sequence.tokens:
            return False
        if sequence is not self.sequence or len(sequence.tokens) != self.num_tokens:
            self.sequence, self.num_tokens = sequence, len(sequence.tokens)
            self.marked = encoder.decode_marked(sequence.tokens)
        return self.marked is not None and rendered.marked.startswith(self.marked)


class _KeptHistories:
    """The sessions of the last histories, found again by what they say.

    Args:
        encoder: turns cached tokens back into text.
        max_kept: how many; the oldest are dropped.
    """

    def __init__(self, encoder: PromptEncoder, max_kept: int) -> None:
        self._encoder = encoder
        self._max_kept = max_kept
        self._histories: list[_History] = []

    def session_for(self, rendered: RenderedText, owner: str) -> tuple[Session, list[Session]]:
        """The session whose conversation ``rendered`` continues, else a new one.

        Beside it the sessions that are no longer kept: what they hold is the caller's to free.
        """
        for history in reversed(self._histories):
            if history.owner == owner and history.begins(rendered, self._encoder):
                self._histories.remove(history)
                # The tokens that are about to come are others.
                history = _History(owner, history.session)
                break
        else:
            history = _History(owner, Session(owner=owner))
        self._histories.append(history)
        first = max(0, len(self._histories) - self._max_kept)
        dropped, self._histories = self._histories[:first], self._histories[first:]
        return history.session, [one.session for one in dropped]
