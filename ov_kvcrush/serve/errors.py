"""Errors as OpenAI's clients know them: a status, and what is wrong as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ov_kvcrush.errors import (
    ConfigError,
    ContextError,
    EngineClosedError,
    GrammarError,
    GrammarFailedError,
    OVKVCrushError,
    PromptError,
    TemplateError,
    UnsupportedError,
    did_you_mean,
)
from ov_kvcrush.serve.fields import UNSUPPORTED

RETRY_SECONDS = 5
"""That a client is asked to wait before it tries again."""

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


def as_api_error(error: BaseException) -> ApiError:
    """``error`` as whoever asked is told it; what is not theirs to know is not told.

    Args:
        error: an :class:`ApiError`, one of this package, of pydantic, FastAPI or Starlette, or any.
    """
    match error:
        case ApiError():
            return error
        case RequestValidationError() | ValidationError():
            return _of_validation(error.errors())
        case HTTPException():
            return _of_http(error)
        case ContextError():
            return context_exceeded(str(error))
        case EngineClosedError():
            return shutting_down()
        case UnsupportedError():
            return invalid(str(error), code=UNSUPPORTED)
        case GrammarError():
            return invalid_schema(str(error))
        case GrammarFailedError():
            return ApiError(500, str(error), SERVER, code="grammar_failed")
        case ConfigError() | PromptError() | TemplateError():
            return invalid(str(error))
        case OVKVCrushError():
            return ApiError(500, str(error), SERVER)
    return ApiError(500, "the server failed at this request; its log says why", SERVER)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be served as it is."""
    return ApiError(400, message, code=code, param=param)


def invalid_schema(message: str, param: str | None = None) -> ApiError:
    """A form of answers that is not one, or that is not served."""
    return invalid(message, param, "invalid_schema")


def context_exceeded(message: str, param: str | None = None) -> ApiError:
    """A prompt, or it and its answer, that the model's context has no room for."""
    return ApiError(400, message, code="context_length_exceeded", param=param, rejected="context")


def invalid_api_key() -> ApiError:
    """A key that is missing or not known."""
    return ApiError(
        401,
        "the API key is missing or not known\nSend it as Authorization: Bearer KEY.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
        rejected="key",
    )


def model_not_found(name: str, known: Iterable[str]) -> ApiError:
    """A name that is not the served model's."""
    return ApiError(
        404,
        f"the model {name!r:.100} is not served here\n{did_you_mean(name, known)}",
        code="model_not_found",
        param="model",
    )


def body_too_large(limit: int) -> ApiError:
    """A request of more than ``limit`` bytes."""
    message = f"the body has more than the {limit:,} bytes that are taken"
    return ApiError(413, message, code="body_too_large", rejected="body")


def wrong_host(host: str) -> ApiError:
    """A Host that is not this server's, as a page has it that was given our address by its DNS."""
    return ApiError(
        421,
        f"the host {host!r:.100} is not this server's\nAllow it with --allow-host.",
        code="wrong_host",
    )


def server_busy() -> ApiError:
    """As many requests as are taken at a time are there already."""
    return ApiError(
        429,
        f"the server has as many requests as it takes; try again in {RETRY_SECONDS} seconds",
        BUSY,
        code="server_busy",
        headers={"Retry-After": str(RETRY_SECONDS)},
        rejected="busy",
    )


def shutting_down() -> ApiError:
    """The server ends; clients are not to try it again."""
    return ApiError(
        503,
        "the server is shutting down",
        SERVER,
        code="shutting_down",
        headers={"x-should-retry": "false"},
    )


def loading() -> ApiError:
    """The model is not there yet."""
    return ApiError(
        503,
        "the model is being loaded",
        SERVER,
        code="loading",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def engine_failed(status: int = 503) -> ApiError:
    """A step of the engine failed: 500 to those it answered, 503 to those that come later."""
    return ApiError(
        status, "the engine failed; the server's log says why", SERVER, code="engine_failed"
    )


def queue_timeout(seconds: float) -> ApiError:
    """A request that had no first token in ``seconds``."""
    return ApiError(
        503,
        f"the request had no token within {seconds:g} seconds",
        SERVER,
        code="queue_timeout",
        rejected="queue_timeout",
    )


def request_timeout(seconds: float) -> ApiError:
    """A request that was not answered in ``seconds``; it would take as long again."""
    return ApiError(
        503,
        f"the request was not answered within {seconds:g} seconds",
        SERVER,
        code="request_timeout",
        headers={"x-should-retry": "false"},
    )


def body_too_slow(seconds: float) -> ApiError:
    """A body that was not there in ``seconds``."""
    return ApiError(408, f"the body did not come within {seconds:g} seconds", code="body_too_slow")


def _of_validation(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's errors, with the place of the field that is wrong."""
    first = errors[0]
    place = [str(part) for part in first["loc"]]
    if place[:1] and place[0] in ("body", "path", "query", "header"):
        del place[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return invalid(f"the body is not valid JSON: {reason} (character {place[-1]})")
    if not place:
        return invalid(
            "the body is not a JSON object\nSend one, with Content-Type: application/json."
        )
    code = UNSUPPORTED if first["type"] == UNSUPPORTED else None
    param, message = ".".join(place), str(first["msg"])
    more = f" ({len(errors) - 1} more fields are wrong)" if len(errors) > 1 else ""
    return invalid(f"{param}: {message[:1].lower()}{message[1:]}{more}", param, code)


def _of_http(error: HTTPException) -> ApiError:
    """Of routes: a path or a method that is not known, a body that cannot be read."""
    kind = SERVER if error.status_code >= 500 else INVALID
    return ApiError(error.status_code, str(error.detail), kind, headers=error.headers or {})
