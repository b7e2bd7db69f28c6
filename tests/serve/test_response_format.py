"""Forms of answers over HTTP: what is given is what is asked for, and what cannot be is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ov_kvcrush.runtime.grammar import grammar_builder
from tests.support.schemas import SCHEMAS, require_valid
from tests.support.server import RunningServer

SCHEMA = SCHEMAS["pattern record"]


def formed(schema: Any, **more: Any) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, **more}
    return {"type": "json_schema", "json_schema": named}


def test_every_choice_and_every_stream_follows_the_schema(server: RunningServer) -> None:
    whole = server.chat(
        response_format=formed(SCHEMA, strict=False), temperature=1.5, n=3, max_tokens=200
    ).json()
    for choice in whole["choices"]:
        require_valid(choice["message"]["content"], SCHEMA)
        assert choice["finish_reason"] == "stop"
    with server.stream(
        response_format=formed(SCHEMA), temperature=1.5, seed=5, max_tokens=200
    ) as lines:
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    pieces = [delta["content"] for delta in deltas if delta.get("content")]
    assert len(pieces) > 5
    require_valid("".join(pieces), SCHEMA)


def test_the_form_changes_nothing_that_is_told_of_the_model(server: RunningServer) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    free = server.chat(**fields).json()["choices"][0]["logprobs"]["content"][0]
    form = formed({"type": "integer", "minimum": 0, "maximum": 9})
    bound = server.chat(response_format=form, **fields).json()["choices"][0]["logprobs"]
    assert bound["content"][0]["top_logprobs"] == free["top_logprobs"]
    assert bound["content"][0]["token"].isdecimal()


def test_an_object_is_one_whatever_is_in_it(server: RunningServer) -> None:
    reply = server.chat(response_format={"type": "json_object"}, max_tokens=24).json()
    assert reply["choices"][0]["message"]["content"].startswith("{")
    text = server.chat(response_format={"type": "text"}, max_tokens=4)
    assert text.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("structure", "texts"),
    [
        ({"choice": ["red", "dark blue"]}, {"red", "dark blue"}),
        ({"regex": "no|yes"}, {"no", "yes"}),
        ({"grammar": 'root ::= "a" | "bc"'}, {"a", "bc"}),
        ({"json": {"enum": [1, "x"]}}, {"1", '"x"'}),
        ({"json": '{"const": null}'}, {"null"}),
    ],
)
def test_a_completion_takes_it_as_vllms_clients_say_it(
    server: RunningServer, structure: dict[str, Any], texts: set[str]
) -> None:
    body = {"model": "needle", "prompt": "Hello", "structured_outputs": structure, "n": 2}
    reply = server.client.post("/v1/completions", json={**body, "max_tokens": 30}).json()
    assert {choice["text"] for choice in reply["choices"]} <= texts


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "(a"}, "unclosed group"),
        ({"type": "colour"}, "colour"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "greater than maximum"),
        ({"enum": []}, "Unsatisfiable"),
        ({"description": "x" * 262_144}, "at most 262,144"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_is_refused_is_told_before_a_stream_begins(
    server: RunningServer, schema: dict[str, Any], reason: str, stream: bool
) -> None:
    refused = server.chat(response_format=formed(schema), stream=stream)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid_schema"
    assert reason in error["message"]
    server.wait_until(lambda: server.service.admission.num_open == 0)


def test_a_grammar_that_fails_ends_its_own_request(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_builder, "_STEP_ITEMS", 500)
    grammar = 'start: s{200}\ns: s s | "a" | "b"\n'
    failed = server.chat(structured_outputs={"grammar": grammar}, max_tokens=300)
    assert failed.status_code == 500
    assert failed.json()["error"]["code"] == "grammar_failed"
    assert server.chat(max_tokens=1).status_code == 200


def test_the_api_is_described_with_its_forms(server: RunningServer) -> None:
    described = server.client.get("/openapi.json").json()["components"]["schemas"]
    assert described["NamedSchema"]["required"] == ["name", "schema"]
    kinds = described["ResponseFormat"]["properties"]["type"]["enum"]
    assert kinds == ["text", "json_object", "json_schema"]
