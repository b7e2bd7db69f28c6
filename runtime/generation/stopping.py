"""When a sequence is finished, and which of its tokens can no longer be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openvino_genai import GenerationFinishReason

from ov_kvcrush.runtime.generation.settings import max_new_tokens

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer


class StopChecker:
    """Collects the tokens of one sequence until a stop token, a stop string or the length ends it.

    As in openvino_genai, a stop token stays among the tokens; it is looked at before the length,
    and stop strings last, so that a text which reaches its length is not cut. ``ignore_eos``
    ignores every stop token id, and no stop string.

    Args:
        config: resolved settings.
        tokenizer: turns tokens into text; used for stop strings only.
        prompt_length: tokens of the prompt, which ``max_length`` counts.

    Attributes:
        tokens: the generated tokens. A stop string takes back what is behind the text before it.
        num_settled: how many of ``tokens`` no later stop string can take back.

    Raises:
        PromptError: ``max_length`` leaves nothing to generate.
    """

    def __init__(self, config: GenerationConfig, tokenizer: Tokenizer, prompt_length: int) -> None:
        self.tokens: list[int] = []
        self.num_settled = 0
        self._max_new_tokens = max_new_tokens(config, prompt_length)
        self._stop_ids = frozenset() if config.ignore_eos else frozenset(config.stop_token_ids)
        self._stop_strings = (
            _StopStrings(config.stop_strings, config.include_stop_str_in_output, tokenizer)
            if config.stop_strings
            else None
        )

    def push(self, token: int) -> GenerationFinishReason | None:
        """Append a generated token; why the sequence is finished with it, None if it is not."""
        self.tokens.append(token)
        if token in self._stop_ids:
            return self._finish(GenerationFinishReason.STOP)
        if len(self.tokens) >= self._max_new_tokens:
            return self._finish(GenerationFinishReason.LENGTH)
        if self._stop_strings is None:
            self.num_settled = len(self.tokens)
            return None
        text = self._stop_strings.newest_text(self.tokens)
        if self._stop_strings.are_in(text):
            del self.tokens[self._stop_strings.num_kept(self.tokens) :]
            return self._finish(GenerationFinishReason.STOP)
        if not self._stop_strings.may_begin(text):
            self.num_settled = len(self.tokens)
        return None

    def _finish(self, reason: GenerationFinishReason) -> GenerationFinishReason:
        self.num_settled = len(self.tokens)
        return reason


class _StopStrings:
    """Looks for stop strings in the text of the newest tokens.

    openvino_genai looks at as many tokens as the longest stop string has in the tokenizer's own
    spelling: it misses one that the model spelled with more, and one inside a longer word. The
    search here goes over as many tokens as the string has bytes; what is cut off follows
    openvino_genai's shorter window where the string is in it. Special tokens count as text, or a
    stop string like ``<|user|>`` would never be found.
    """

    def __init__(self, strings: set[str], include: bool, tokenizer: Tokenizer) -> None:
        self._strings = sorted(strings)
        self._include = include
        self._tokenizer = tokenizer
        self._spelled = max(
            tokenizer.encode(string, add_special_tokens=False).input_ids.shape[1]
            for string in strings
        )
        self._longest = max(self._spelled, *(len(string.encode()) for string in strings))
        # A cut also takes white space before the stop string; "\ufffd" is half a character.
        starts = {string[:length] for string in strings for length in range(1, len(string))}
        self._starts = (*starts, " ", "\n", "\ufffd")

    def newest_text(self, tokens: Sequence[int]) -> str:
        return self._decode(tokens[-self._longest :])

    def are_in(self, text: str) -> bool:
        return any(string in text for string in self._strings)

    def may_begin(self, text: str) -> bool:
        return text.endswith(self._starts)

    def num_kept(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` stay, given that a stop string is in their newest text.

        Tokens stay whole: one that holds both text and the stop string's beginning shows both.
        """
        window = tokens[-self._spelled :]
        text = self._decode(window)
        if not self.are_in(text):
            window = tokens[-self._longest :]
            text = self._decode(window)
        string = next(string for string in self._strings if string in text)
        end = text.index(string) + (len(string) if self._include else 0)
        kept = text[:end].rstrip(" \n")
        return len(tokens) - len(window) + self._num_tokens(window, kept)

    def _num_tokens(self, window: Sequence[int], text: str) -> int:
        """How many of ``window``'s first tokens it takes to hold ``text``."""
        if not text:
            return 0
        for count in range(1, len(window)):
            if text in self._decode(window[:count]):
                return count
        return len(window)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))
