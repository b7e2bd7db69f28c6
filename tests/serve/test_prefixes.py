"""Named prefixes: read once, asked about by name, each owner's own, and bounded."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from tests.support.pipelines import engine_in
from tests.support.server import RunningServer, serving
from tests.support.texts import rooms

DOCUMENT = rooms(120) + "\n\n"
LIMIT = {"max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def small(needle_int8_dir: Any) -> LLMPipeline:
    """Its pool is soon full."""
    config = KVCacheConfig(pool_size=4096)
    return LLMPipeline(needle_int8_dir, kv_cache_config=config, max_num_batched_tokens=512)


def prefix_bytes(pipeline: LLMPipeline) -> int:
    """What prefixes hold, those too that are kept unasked."""
    return int(pipeline.get_metrics()["kv_cache"]["prefixes_bytes"])


@pytest.fixture
def named(server: RunningServer) -> Iterator[dict[str, Any]]:
    response = server.client.post("/v1/prefixes", json={"text": DOCUMENT})
    assert response.status_code == 200
    named: dict[str, Any] = response.json()
    yield named
    server.client.delete(f"/v1/prefixes/{named['id']}")


def test_a_prefix_tells_what_it_takes(server: RunningServer, named: dict[str, Any]) -> None:
    assert named["object"] == "prefix"
    assert len(named["id"]) > 32
    assert 0 < named["num_kept"] < named["num_tokens"]
    assert named["num_kept"] <= 256
    assert 0 < named["bytes"] < 2_000_000
    assert server.client.get(f"/v1/prefixes/{named['id']}").json() == named
    assert server.client.get("/v3/prefixes").json() == {"object": "list", "data": [named]}


def test_questions_go_behind_it_and_nothing_of_it_is_read_again(
    server: RunningServer, named: dict[str, Any], pipeline: LLMPipeline
) -> None:
    for _ in range(2):
        reply = server.chat("Which is room 7?", prefix=named["id"], **LIMIT).json()
        usage = reply["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == named["num_tokens"]
    with pipeline.cache_prefix(DOCUMENT) as prefix:
        wanted = pipeline.generate(
            "Which is room 7?", prefix=prefix, max_new_tokens=12, ignore_eos=True, do_sample=False
        )
    assert reply["choices"][0]["message"]["content"] == wanted


def test_a_session_goes_on_behind_it(server: RunningServer, named: dict[str, Any]) -> None:
    body = {"model": "needle", "prefix": named["id"], "session_id": "behind", "temperature": 0}
    messages = [{"role": "user", "content": "Which is room 7?"}]
    reply = server.client.post("/v1/chat/completions", json={**body, **LIMIT, "messages": messages})
    messages.append(reply.json()["choices"][0]["message"])
    messages.append({"role": "user", "content": "And room 8?"})
    reply = server.client.post("/v1/chat/completions", json={**body, **LIMIT, "messages": messages})
    usage = reply.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= named["num_tokens"] + 10


def test_its_system_message_is_there_whether_it_is_said_or_not(server: RunningServer) -> None:
    document = {"text": DOCUMENT, "system_message": "Be brief."}
    named = server.client.post("/v1/prefixes", json=document).json()
    question = {"role": "user", "content": "Which is room 7?"}

    def ask(*messages: dict[str, str]) -> Any:
        body = {"messages": [*messages], "prefix": named["id"], "temperature": 0, **LIMIT}
        return server.client.post("/v1/chat/completions", json={"model": "needle", **body}).json()

    system = {"role": "system", "content": "Be brief."}
    answers = [ask(question), ask(system, question)]
    for answer in answers:
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached == named["num_tokens"]
        assert answer["choices"][0]["message"] == answers[0]["choices"][0]["message"]
    error = ask({**system, "content": "Be long."}, question)["error"]
    assert error["param"] == "messages.0.content"
    assert "prefix was made with" in error["message"]
    assert "begins with a message of the user" in ask(system)["error"]["message"]
    server.client.delete(f"/v1/prefixes/{named['id']}")


def test_what_is_removed_is_gone_and_its_pages_are_free(
    server: RunningServer, pipeline: LLMPipeline
) -> None:
    client = server.client
    named = client.post("/v1/prefixes", json={"text": DOCUMENT}).json()
    path = f"/v1/prefixes/{named['id']}"
    deleted = {"id": named["id"], "object": "prefix", "deleted": True}
    before = prefix_bytes(pipeline)
    assert client.delete(path).json() == deleted
    assert before - prefix_bytes(pipeline) == named["bytes"]
    for response in (
        client.delete(path),
        client.get(path),
        server.chat(prefix=named["id"]),
        server.chat(prefix="prefix-of-nobody"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "prefix_not_found"


def test_each_key_has_its_own(pipeline: LLMPipeline) -> None:
    from hashlib import sha256

    keys = {sha256(key.encode()).digest(): name for key, name in (("a", "ann"), ("b", "bob"))}
    with serving(lambda: pipeline, key="a", keys=keys) as server:
        named = server.client.post("/v1/prefixes", json={"text": DOCUMENT}).json()
        bob = {"Authorization": "Bearer b"}
        path = f"/v1/prefixes/{named['id']}"
        assert server.client.get("/v1/prefixes", headers=bob).json()["data"] == []
        for method in ("GET", "DELETE"):
            assert server.client.request(method, path, headers=bob).status_code == 404
        body = {"messages": [{"role": "user", "content": "?"}], "prefix": named["id"]}
        body["model"] = "needle"
        asked = server.client.post("/v1/chat/completions", json=body, headers=bob)
        assert asked.status_code == 404
        assert server.client.get(path).status_code == 200


def test_it_is_read_twice_where_that_is_wanted(server: RunningServer) -> None:
    body = {"text": DOCUMENT, "thorough": True}
    named = server.client.post("/v1/prefixes", json=body).json()
    reply = server.chat("Which is room 7?", prefix=named["id"], **LIMIT).json()
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == named["num_tokens"]
    server.client.delete(f"/v1/prefixes/{named['id']}")


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": 3}, {"text": "a", "thorough": 1}])
def test_what_is_wrong_is_named(server: RunningServer, body: dict[str, Any]) -> None:
    response = server.client.post("/v1/prefixes", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] in ("text", "thorough")


def test_prefixes_leave_room_in_the_pool(small: LLMPipeline) -> None:
    with serving(lambda: small) as server:
        client = server.client
        longer = client.post("/v1/prefixes", json={"text": rooms(500)})
        assert longer.status_code == 400
        assert "the pool holds 4096 tokens" in longer.json()["error"]["message"]
        unbounded = client.post("/v1/prefixes", json={"text": DOCUMENT, "thorough": True})
        assert unbounded.status_code == 400
        assert "nothing is evicted" in unbounded.json()["error"]["message"]
        most = client.post("/v1/prefixes", json={"text": rooms(200)})
        assert most.status_code == 200
        another = client.post("/v1/prefixes", json={"text": "Another. " + rooms(100)})
        assert another.status_code == 400
        assert another.json()["error"]["code"] == "no_room"
        assert "Remove one" in another.json()["error"]["message"]
        assert server.chat("Hello", max_tokens=2).status_code == 200
        assert prefix_bytes(small) < 1.5 * most.json()["bytes"]


def test_a_text_that_nobody_waits_for_any_more_is_not_kept(server: RunningServer) -> None:
    content = json.dumps({"text": rooms(500)}).encode()
    head = f"POST /v1/prefixes HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    ended = server.service.log.requests
    before = ended["/v1/prefixes", 499]
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        server.wait_until(lambda: server.num_at_work == 1)
    server.wait_until(lambda: ended["/v1/prefixes", 499] > before)
    server.wait_until(lambda: server.num_at_work == 0)
    assert server.client.get("/v1/prefixes").json()["data"] == []


def test_nothing_is_lost(server: RunningServer, pipeline: LLMPipeline) -> None:
    assert server.client.get("/v1/prefixes").json()["data"] == []
    with pipeline.loaded_model.lock:
        engine_in(pipeline).check_integrity()
