"""The errors a user can meet: each says what is wrong, why, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OVKVCrushError(Exception):
    """Base of every error this package raises for something its user can change.

    Args:
        message: one line: what is wrong and why.
        hint: one line: what to do about it. Shown below the message.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(OVKVCrushError, ValueError):
    """A setting that is unknown, malformed, or contradicts another one."""


class ModelError(OVKVCrushError):
    """A model folder, IR, tokenizer or KV plan that cannot be used."""


class TemplateError(ModelError):
    """A model without a chat template, or a template that fails at a conversation."""


class DeviceError(OVKVCrushError):
    """A device that does not exist here or that the engine does not serve."""


class PromptError(OVKVCrushError, ValueError):
    """A prompt that cannot be read: empty, or longer than the KV cache can hold."""


class ContextError(PromptError):
    """A prompt that leaves no room in the context the model was made for.

    Attributes:
        num_tokens: of the prompt.
        limit: tokens of the context.
    """

    def __init__(self, num_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {num_tokens:,} tokens, and with its answer must stay within the "
            f"{limit:,} that the model was made to read",
            "Shorten it, or go beyond on purpose with a larger context_length (0 is unbounded).",
        )
        self.num_tokens = num_tokens
        self.limit = limit

    def __reduce__(self) -> tuple[type[ContextError], tuple[int, int]]:
        """Its two numbers make it anew, in another process too."""
        return type(self), (self.num_tokens, self.limit)


class UnsupportedError(OVKVCrushError, NotImplementedError):
    """A feature of the wider ecosystem that this engine does not offer."""


class GrammarError(ConfigError):
    """A grammar that cannot bind answers: damaged, too large, or with what is not served."""


class GrammarFailedError(OVKVCrushError):
    """A grammar that has come to its own limits in the middle of an answer, which ends there."""


class EngineClosedError(OVKVCrushError):
    """A request that was running when its engine was closed, or came after."""

    def __init__(self) -> None:
        super().__init__("the engine was closed before the answer was finished")


class SessionError(OVKVCrushError):
    """A session file that cannot be written, or from which this engine cannot go on."""


class SessionRoomError(SessionError):
    """A session file that could be gone on from if the pool had room for its cache now."""


class JournalError(OVKVCrushError):
    """A journal of an evaluation that cannot be written, or from which this one cannot go on."""


class ExportError(OVKVCrushError):
    """An export or a calibration that cannot start or did not finish."""


class OVKVCrushWarning(UserWarning):
    """Something that was asked for and is not done, where all else goes on. One line."""


def last_line(error: BaseException) -> str:
    """The last line of its message: OpenVINO's C++ checks put the sentence that helps there."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of its message: Python's libraries put the sentence that helps there."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """Hint for an unknown ``name``: the closest known one, else all of them.

    ``others`` may be what was meant too, but are not listed.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, sorted({*names, *others}), n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}."
