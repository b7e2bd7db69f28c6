"""Errors as OpenAI's clients know them: a status, and what is wrong as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INVALID, BUSY, SERVER = "invalid_request_error", "rate_limit_error", "server_error"


@dataclass(eq=False)
class ApiError(Exception):
    """What ends a request, and only that one.

    Attributes:
        status: HTTP's.
        message: one or two lines for whoever asked: what is wrong, why, and what to do.
        type: OpenAI's kind of error.
        code: OpenAI's or our own name of it; None where there is nothing to tell apart.
        param: the field that is wrong, with dots.
        headers: of the answer.
        rejected: why the request was not taken, as :class:`RequestRecord` has it.
    """

    status: int
    message: str
    type: str = INVALID
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    rejected: str = ""

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        error = {"message": self.message, "type": self.type}
        return {"error": error | {"param": self.param, "code": self.code}}
