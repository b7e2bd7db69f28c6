"""What every API makes of answers: one body, or the events of a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from openvino_genai import GenerationFinishReason

from ov_kvcrush.pipeline.deltas import Delta
from ov_kvcrush.pipeline.results import DecodedResults
from ov_kvcrush.serve.errors import ApiError


class Reply(ABC):
    """The reply to one request.

    A stream is made of :meth:`first_events`, :meth:`events` of each delta, and :meth:`last_events`;
    or of :meth:`error_event` where it cannot go on.

    Attributes:
        end: why the first answer has ended, once :meth:`whole` or :meth:`last_events` has told it.
    """

    ends_with_done: ClassVar[bool] = True
    """Whether a stream's last event is ``[DONE]``."""

    end: str = ""

    @abstractmethod
    def whole(self, answers: Sequence[DecodedResults]) -> dict[str, Any]:
        """The reply at once.

        Args:
            answers: one for each prompt.
        """

    @abstractmethod
    def first_events(self) -> list[dict[str, Any]]:
        """What a stream begins with."""

    @abstractmethod
    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """What a piece of the answer shows, if anything."""

    @abstractmethod
    def last_events(self, results: DecodedResults) -> list[dict[str, Any]]:
        """What is left of the answer, why it has ended, and what it cost."""

    def error_event(self, error: ApiError) -> dict[str, Any]:
        """What ends a stream that has begun."""
        return error.body


def finish_reason(reason: GenerationFinishReason) -> str:
    """OpenAI's word for it: ``stop``, or ``length`` of whatever else ended an answer."""
    return "stop" if reason == GenerationFinishReason.STOP else "length"
