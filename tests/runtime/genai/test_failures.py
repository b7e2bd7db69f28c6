"""Whatever fails in a step of openvino_genai's engine: all requests end, the next is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.runtime.engine_metrics import EndedSequences
from ov_kvcrush.runtime.genai import engine as genai_engine
from ov_kvcrush.runtime.genai.engine import GenaiEngine
from ov_kvcrush.runtime.genai.page_bytes import PageBytes
from ov_kvcrush.runtime.genai.running import CacheCount
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import GENAI_EVICTING, finish, greedy, prompt_of
from tests.support.failures import InjectedError, counted

PLACES: dict[str, tuple[Any, str]] = {
    "a request is made": (genai_engine, "new_request"),
    "the pipeline's step": (PageBytes, "learn"),
    "tokens are read": (CacheCount, "grow"),
    "costs are summed up": (EndedSequences, "add"),
}
PROMPTS = [prompt_of(300, 1), prompt_of(40, 2), prompt_of(90, 3)]


@pytest.fixture(scope="module")
def engine(needle_int8_dir: Path) -> GenaiEngine:
    return GenaiEngine(needle_int8_dir, Tokenizer(needle_int8_dir), config=GENAI_EVICTING)


def ask(engine: GenaiEngine, sessions: list[Session]) -> list[list[int]]:
    """Answer all prompts together; what has not ended is cancelled, as pipelines do."""
    requests: list[Request] = []
    try:
        for prompt, session in zip(PROMPTS, sessions, strict=True):
            requests.append(engine.add_request(prompt, greedy(12), session))
        tokens = finish(engine, *requests)
    finally:
        for request in requests:
            if not request.finished:
                engine.cancel(request)
    for request in requests:
        if request.error is not None:
            raise request.error
    return tokens


@pytest.mark.parametrize("place", PLACES)
def test_every_request_ends_when_something_fails(engine: GenaiEngine, place: str) -> None:
    with counted(PLACES[place]) as calls:
        wanted = ask(engine, [Session() for _ in PROMPTS])
    for number in {1, 2, calls[0]}:
        sessions = [Session() for _ in PROMPTS]
        with counted(PLACES[place], fails_at=number), pytest.raises(InjectedError):
            ask(engine, sessions)
        assert not any(session.busy for session in sessions)
        assert not engine.has_unfinished()
    assert ask(engine, [Session() for _ in PROMPTS]) == wanted
    assert engine.metrics().used_bytes == 0
