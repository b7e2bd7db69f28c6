"""Errors as clients are told them."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from ov_kvcrush.errors import (
    ConfigError,
    ContextError,
    EngineClosedError,
    ModelError,
    PromptError,
    SessionError,
    TemplateError,
    UnsupportedError,
)
from ov_kvcrush.pipeline.messages import TemplateRefusalError
from ov_kvcrush.serve import errors
from ov_kvcrush.serve.errors import ApiError, as_api_error
from ov_kvcrush.serve.schemas import ChatRequest

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (ConfigError("a"), 400, "invalid_request_error", None),
        (PromptError("a"), 400, "invalid_request_error", None),
        (TemplateRefusalError("a"), 400, "invalid_request_error", None),
        (TemplateError("a"), 400, "invalid_request_error", None),
        (ContextError(10, 5), 400, "invalid_request_error", "context_length_exceeded"),
        (UnsupportedError("a"), 400, "invalid_request_error", "unsupported_value"),
        (EngineClosedError(), 503, "server_error", "shutting_down"),
        (ModelError("a"), 500, "server_error", None),
        (SessionError("a"), 500, "server_error", None),
        (HTTPException(404), 404, "invalid_request_error", None),
        (HTTPException(503), 503, "server_error", None),
        (RuntimeError("secret"), 500, "server_error", None),
        (MemoryError(), 500, "server_error", None),
    ],
)
def test_every_error_has_a_status(
    error: BaseException, status: int, kind: str, code: str | None
) -> None:
    told = as_api_error(error)
    assert (told.status, told.type, told.code) == (status, kind, code)
    assert set(told.body["error"]) == {"message", "type", "param", "code"}
    assert told.message


def test_what_to_do_is_told_too() -> None:
    assert as_api_error(PromptError("it is empty", "Say more.")).message == "it is empty\nSay more."


def test_what_went_wrong_inside_is_not_told() -> None:
    for error in (RuntimeError("/home/ann/model"), KeyError("secret")):
        assert "log" in as_api_error(error).message
        assert str(error) not in as_api_error(error).message


def test_an_error_of_ours_stays_itself() -> None:
    error = errors.invalid("a", "b", "c")
    assert as_api_error(error) is error


@pytest.mark.parametrize(
    ("error", "status", "code", "header"),
    [
        (errors.invalid_api_key(), 401, "invalid_api_key", ("WWW-Authenticate", "Bearer")),
        (errors.model_not_found("x", ["m"]), 404, "model_not_found", None),
        (errors.body_too_large(8), 413, "body_too_large", None),
        (errors.wrong_host("evil"), 421, "wrong_host", None),
        (errors.server_busy(), 429, "server_busy", ("Retry-After", "5")),
        (errors.shutting_down(), 503, "shutting_down", ("x-should-retry", "false")),
        (errors.loading(), 503, "loading", ("Retry-After", "5")),
        (errors.engine_failed(), 503, "engine_failed", None),
        (errors.engine_failed(500), 500, "engine_failed", None),
        (errors.queue_timeout(120.0), 503, "queue_timeout", None),
    ],
)
def test_clients_can_tell_errors_apart(
    error: ApiError, status: int, code: str, header: tuple[str, str] | None
) -> None:
    assert (error.status, error.code) == (status, code)
    assert header is None or dict([header]) == error.headers
    server = status >= 500
    kinds = {429: "rate_limit_error"}
    expected = kinds.get(status, "server_error" if server else "invalid_request_error")
    assert error.type == expected


def test_a_model_that_is_not_there_is_named_with_the_closest() -> None:
    error = errors.model_not_found("qwen", ["qwen3"])
    assert error.param == "model"
    assert "Did you mean 'qwen3'?" in error.message


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()

    @app.post("/chat")
    async def chat(request: ChatRequest) -> str:
        return request.model

    async def answer(_: Request, error: Any) -> JSONResponse:
        told = as_api_error(error)
        return JSONResponse(told.body, told.status, headers=dict(told.headers))

    app.add_exception_handler(RequestValidationError, answer)
    app.add_exception_handler(HTTPException, answer)
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"{}", "model", "field required"),
        (b"{", None, "not valid JSON"),
        (b"[" * 200_000, None, "parsing the body"),
        (b"\xff\xfe", None, "not valid JSON"),
        (b'"\xc3\x28"', None, "parsing the body"),
        (b"3", None, "not a JSON object"),
        (b"[]", None, "not a JSON object"),
        (b"", None, "not a JSON object"),
        (b'{"seed":' + b"9" * 5000 + b"}", None, "parsing the body"),
        (b'{"model": NaN, "messages": []}', "model", "string"),
        (b'{"model": "\\ud800", "messages": []}', "model", "half a character"),
        (b'{"model": "m", "messages": [{"role": "user\\ud800"}]}', "messages.0.role", "unicode"),
    ],
)
def test_a_bad_body_is_the_clients_mistake(
    client: TestClient, body: bytes, param: str | None, says: str
) -> None:
    response = client.post("/chat", content=body, headers=JSON)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert says in error["message"]


def test_a_body_that_is_not_said_to_be_json_is_not_read(client: TestClient) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "a"}]}'
    assert client.post("/chat", content=body, headers=JSON).status_code == 200
    response = client.post("/chat", content=body, headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "Content-Type: application/json" in response.json()["error"]["message"]


def test_paths_and_methods_have_the_same_form(client: TestClient) -> None:
    assert client.get("/nowhere").json()["error"]["message"] == "Not Found"
    response = client.get("/chat")
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_what_is_wrong_with_the_model_is_told_whole() -> None:
    assert as_api_error(ModelError("what", "do")).message == "what\ndo"
