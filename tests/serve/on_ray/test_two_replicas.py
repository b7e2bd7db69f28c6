"""Two real replicas: who gets which request, and what becomes of it when one of them dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import psutil
import pytest

from tests.support.replicas import Replicas, replicas, wait_until
from tests.support.texts import rooms

pytest.importorskip("ray")
pytestmark = pytest.mark.ray

# The chance that all of them have the same replica is one in two thousand.
SESSIONS = [f"chat {n}" for n in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chats")


@pytest.fixture(scope="module")
def running(needle_int8_dir: Path, folder: Path) -> Iterator[Replicas]:
    limits = ("--max-running", "4", "--max-waiting", "2")
    with replicas(needle_int8_dir, "--session-dir", str(folder), *limits) as started:
        yield started


@pytest.fixture(scope="module")
def chats(running: Replicas) -> dict[str, list[dict[str, str]]]:
    """Conversations of one turn, each in the cache of its session's replica."""
    told = {}
    for session in SESSIONS:
        told[session] = [{"role": "user", "content": f"{session}. {rooms(60)}\nWhich is room 3?"}]
        go_on(running, told[session], session)
    return told


def go_on(running: Replicas, chat: list[dict[str, str]], session: str) -> float:
    """What part of the next turn's prompt was cached; the answer joins ``chat``."""
    reply = running.ask(chat, session)
    assert reply.status_code == 200, reply.text
    told = reply.json()
    chat.append({"role": "assistant", "content": told["choices"][0]["message"]["content"]})
    usage = told["usage"]
    cached: int = usage["prompt_tokens_details"]["cached_tokens"]
    return cached / int(usage["prompt_tokens"])


def test_a_session_stays_at_its_replica_and_reads_what_is_new_alone(
    running: Replicas, chats: dict[str, list[dict[str, str]]]
) -> None:
    for turn in range(2):
        for session, chat in chats.items():
            chat.append({"role": "user", "content": f"And room {turn}?"})
            assert go_on(running, chat, session) > 0.9
    # A replica that did not have it would have taken it from a file; there is none yet, or it is
    # known to both.
    wait_until(lambda: sum(running.metrics("ov_kvcrush_sessions").values()) == len(SESSIONS))
    known = running.metrics("ov_kvcrush_sessions")
    assert len(known) == 2
    assert min(known.values()) > 0


def test_what_metrics_tell_is_there_for_each_replica(
    running: Replicas, chats: dict[str, list[dict[str, str]]]
) -> None:
    for name in ("kv_cache_used_bytes", "requests_total", "time_to_first_token_seconds_bucket"):
        told = running.metrics(f"ov_kvcrush_{name}")
        assert len(told) == 2, name
        assert min(told.values()) > 0, name


def test_the_reply_has_one_request_id(running: Replicas) -> None:
    reply = running.client.get("/health", headers={"x-request-id": "mine"})
    assert reply.json() == {"status": "ready"}
    assert reply.headers.get_list("x-request-id") == ["mine"]


def test_a_client_that_leaves_ends_its_request(running: Replicas) -> None:
    def num_cancelled() -> int:
        return [request["end"] for request in running.stats("leaving")["last"]].count("cancelled")

    before = num_cancelled()
    with running.stream("Hello", "leaving", max_tokens=7000) as lines:
        for _ in range(3):
            next(lines)
    wait_until(lambda: num_cancelled() == before + 1, seconds=2)
    with pytest.raises(httpx2.TimeoutException):
        running.ask([{"role": "user", "content": "Hello"}], "leaving", timeout=0.5, max_tokens=7000)
    wait_until(lambda: num_cancelled() == before + 2, seconds=2)


def test_a_full_replica_has_the_other_help_and_then_says_that_it_is_full(
    running: Replicas,
) -> None:
    def ask(n: int) -> httpx2.Response:
        return running.ask([{"role": "user", "content": f"Count {n}."}], "busy", max_tokens=300)

    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(ask, range(20)))
    taken = [reply for reply in replies if reply.status_code == 200]
    # Its own one takes 4 + 2, and the other one those for which it has a place at once.
    assert 6 < len(taken) < 20
    for reply in replies:
        if reply not in taken:
            assert reply.status_code == 429
            assert reply.headers["retry-after"] == "5"
            assert reply.json()["error"]["code"] == "server_busy"


def test_when_a_replica_is_killed_sessions_go_on_from_the_folder(
    running: Replicas, chats: dict[str, list[dict[str, str]]], folder: Path
) -> None:
    wait_until(lambda: len(list(folder.glob("chat-*.safetensors"))) >= len(SESSIONS))
    time.sleep(1)  # the last of them may just be written anew
    killed, other = running.processes()
    with ThreadPoolExecutor(8) as threads:
        client = openai.OpenAI(base_url=f"{running.server.url}/v1", api_key="unused")
        # Four at each replica, whosever sessions they are: more is spilled.
        streams = [threads.submit(end_of_stream, running, f"stream {n}") for n in range(6)]
        whole = [threads.submit(whole_answer, client, f"whole {n}") for n in range(2)]
        time.sleep(0.7)
        os.kill(killed.pid, signal.SIGKILL)
        # Whole answers that were lost are asked for again by the client itself.
        assert [answer.result() for answer in whole] == ["length"] * 2
        ends = [stream.result() for stream in streams]
    assert set(ends) == {"data: [DONE]", "RemoteProtocolError"}
    for session, chat in chats.items():
        chat.append({"role": "user", "content": "And room 9?"})
        assert go_on(running, chat, session) > 0.9
    wait_until(lambda: len({p.pid for p in running.processes()} - {killed.pid, other.pid}) == 1)


def end_of_stream(running: Replicas, session: str) -> str:
    last = ""
    try:
        with running.stream("Count.", session, max_tokens=500) as lines:
            for line in lines:
                last = line
    except httpx2.RemoteProtocolError as error:
        return type(error).__name__
    return last


def whole_answer(client: openai.OpenAI, session: str) -> str:
    reply = client.chat.completions.create(
        model="needle",
        messages=[{"role": "user", "content": "Count."}],
        max_tokens=500,
        temperature=0,
        extra_headers={"x-session-id": session},
        extra_body={"ignore_eos": True},
    )
    return reply.choices[0].finish_reason


def test_it_ends_with_what_is_being_answered_and_leaves_no_process(running: Replicas) -> None:
    family = running.family()
    with ThreadPoolExecutor() as threads:
        stream = threads.submit(end_of_stream, running, "last")
        wait_until(lambda: bool(running.stats("last")["open"]))
        running.server.tell(signal.SIGTERM)
        running.server.wait_until_ending()
        assert stream.result() == "data: [DONE]"
    assert running.server.end() == 0
    _, left = psutil.wait_procs(family, timeout=10)
    assert left == []
