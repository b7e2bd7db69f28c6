"""From texts and histories to prompts, each with the cache that it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ov_kvcrush.pipeline.histories import KeptHistories
from ov_kvcrush.pipeline.prompts import Prompt, encode_continuing, encode_prompt
from ov_kvcrush.runtime.generation.request import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix


class PromptReader:
    """Encodes what a model is to answer, and remembers the histories it has answered.

    Args:
        tokenizer: of the model.
        close_session: frees what a history that is no longer remembered holds.
    """

    def __init__(self, tokenizer: Tokenizer, close_session: Callable[[Session], None]) -> None:
        self._tokenizer = tokenizer
        self._close_session = close_session
        self._histories = KeptHistories(tokenizer)

    def read_text(self, text: str, config: GenerationConfig, prefix: CachedPrefix | None) -> Prompt:
        """A text as the user's one message, behind what ``prefix`` has read.

        Raises:
            PromptError: it is empty or no text.
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
