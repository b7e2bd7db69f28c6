"""A session file is written whole or not at all, whatever ends the writing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ov_kvcrush.errors import SessionError
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import prompt_of
from tests.support.session_process import ABOUT, ask, load


def test_a_cache_that_is_inconsistent_is_not_written(engine: PagedEngine, saved: Path) -> None:
    session = load(engine, saved)
    assert session.sequence is not None
    content = saved.read_bytes()
    session.sequence.layers[3].append(session.sequence.num_cached, 1)  # as broken off in a step
    with pytest.raises(SessionError, match="broken off in an inference"):
        engine.save_session(session, saved, ABOUT)
    session.sequence.layers[3].rewind(1)
    engine.close_session(session)
    assert saved.read_bytes() == content


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(
    engine: PagedEngine, saved: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    session, content = load(engine, saved), saved.read_bytes()

    def fail(descriptor: int) -> None:
        raise fault

    monkeypatch.setattr("ov_kvcrush.files.os.fsync", fail)
    with pytest.raises((SessionError, KeyboardInterrupt)):
        engine.save_session(session, saved, ABOUT)
    assert saved.read_bytes() == content
    assert os.listdir(saved.parent) == [saved.name]
    engine.close_session(session)


def killed_while(work: Callable[[], None], after: float) -> None:
    """Do ``work`` again and again in a process of its own that is killed ``after`` seconds."""
    child = os.fork()
    if not child:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file(
    engine: PagedEngine, tmp_path: Path
) -> None:
    sessions = [Session(), Session()]
    ask(engine, sessions[0], prompt_of(400))
    ask(engine, sessions[1], prompt_of(300, 1))
    wanted = [session.token_ids for session in sessions]
    path, turn = tmp_path / "chat.safetensors", [0]
    engine.save_session(sessions[0], path, ABOUT)

    def save_the_other() -> None:
        turn[0] = 1 - turn[0]
        engine.save_session(sessions[turn[0]], path, ABOUT)

    chance, left_behind, found = random.Random(0), 0, set()
    for _ in range(50):
        killed_while(save_the_other, chance.uniform(0.0, 0.06))
        left_behind += len(os.listdir(tmp_path)) > 1
        session = load(engine, path)
        found.add(wanted.index(session.token_ids))
        engine.close_session(session)
    assert found == {0, 1}
    assert left_behind > 5  # or no save was hit at all
    engine.save_session(sessions[0], path, ABOUT)
    assert os.listdir(tmp_path) == [path.name]
    for session in sessions:
        engine.close_session(session)
