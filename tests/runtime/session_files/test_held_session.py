"""What a session holds is written as it was, whatever the engine does meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import SessionError
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.session_files import held_session
from ov_kvcrush.runtime.session_files.session_file import read_about
from ov_kvcrush.runtime.session_files.tensor_file import write_tensors
from tests.support.engines import prompt_of
from tests.support.session_process import ABOUT, ask, load


@pytest.fixture
def session(engine: PagedEngine, saved: Path) -> Session:
    return load(engine, saved)


def used_bytes(engine: PagedEngine) -> int:
    engine.prefixes.clear()
    engine.check_integrity()
    return engine.cache.used_bytes


def test_it_is_the_file_that_is_written_at_rest(
    engine: PagedEngine, session: Session, saved: Path, tmp_path: Path
) -> None:
    before = used_bytes(engine)
    held = engine.hold_session(session)
    assert used_bytes(engine) == before
    held.write(tmp_path / "held.safetensors", ABOUT)
    assert read_about(tmp_path / "held.safetensors") == read_about(saved)
    held.close()
    engine.close_session(session)
    assert used_bytes(engine) == 0


def test_what_comes_after_it_is_not_in_the_file(
    engine: PagedEngine, session: Session, saved: Path, tmp_path: Path
) -> None:
    held = engine.hold_session(session)
    num_cuts = len(session.sequence.cuts) if session.sequence is not None else 0
    ask(engine, session, prompt_of(200, 1), 80)
    assert session.sequence is not None
    assert len(session.sequence.cuts) > num_cuts
    engine.check_integrity()
    engine.close_session(session)
    ask(engine, Session(), prompt_of(300, 2))
    held.write(tmp_path / "held.safetensors", ABOUT)
    assert read_about(tmp_path / "held.safetensors") == read_about(saved)
    assert engine.cache.used_bytes > 0
    held.close()
    assert used_bytes(engine) == 0


def test_a_session_without_a_cache_is_held_too(engine: PagedEngine, tmp_path: Path) -> None:
    held = engine.hold_session(Session())
    assert (held.is_empty, held.num_tokens, held.num_kept) == (True, 0, 0)
    held.write(tmp_path / "held.safetensors", ABOUT)
    assert load(engine, tmp_path / "held.safetensors").sequence is None


def test_what_nobody_holds_any_more_is_freed(engine: PagedEngine, session: Session) -> None:
    held = engine.hold_session(session)
    engine.close_session(session)
    assert engine.cache.used_bytes > 0
    del held
    assert used_bytes(engine) == 0


@pytest.mark.parametrize("when", ["before", "meanwhile", "closed meanwhile"])
def test_pages_that_others_took_are_not_written(
    engine: PagedEngine, session: Session, saved: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    content = saved.read_bytes()
    held = engine.hold_session(session)
    write = write_tensors

    def give_up() -> None:
        if when == "closed meanwhile":
            held.close()
            engine.close_session(session)
        else:
            for one in engine.cache.parked:
                engine.cache.drop(one)
        assert used_bytes(engine) == 0
        ask(engine, Session(), prompt_of(300, 2))

    def write_late(*arguments: Any) -> None:
        give_up()
        write(*arguments)

    if when == "before":
        give_up()
    else:
        monkeypatch.setattr(held_session, "write_tensors", write_late)
    with pytest.raises(SessionError, match="given up for others"):
        held.write(saved, ABOUT)
    assert saved.read_bytes() == content
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    engine.close_session(session)
    assert used_bytes(engine) == 0
