"""Sessions on disk: what goes on after loading is what would have gone on without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ov_kvcrush.errors import SessionError
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import PAGE, bare_engine, prompt_of
from tests.support.exported import exported_random
from tests.support.model_factory import precisions_of, replanned
from tests.support.session_process import ABOUT, CUT_OFTEN, ask, continue_in_new_process, load

POLICIES: dict[str, dict[str, Any]] = {
    "everything": {},
    "token": {**CUT_OFTEN, "layer_budgets": [2, 1, 4, 1]},
    "heads": CUT_OFTEN,
    "heads together": {**CUT_OFTEN, "head_budgets": "off"},
    "page": {**PAGE, "decode_slack": 16},
    "h2o": {**CUT_OFTEN, "importance": "h2o"},
}
PRECISIONS = ("f32/f32", "u8/u8", "u8/u4", "u4/u4", "mixed")


@pytest.fixture(scope="module")
def mixed_dir(four_layers_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a plan that gives each layer a precision of its own."""
    precisions = precisions_of("u8/u8", "u4/u4", "u8/u4", "u4/u8")
    precisions[2] = LayerPrecision("u8", "u4", value_group_size=8)
    return replanned(tmp_path_factory.mktemp("mixed"), four_layers_dir, precisions)


def state(session: Session) -> list[Any]:
    """All that the cache of ``session`` holds beside its pages."""
    sequence = session.sequence
    assert sequence is not None
    found: list[Any] = [sequence.tokens, sequence.num_cached, sequence.rewind_floor, sequence.cuts]
    for number, layer in enumerate(sequence.layers):
        found += [layer.positions.tolist(), layer.slots.tolist()]
        found.append(None if layer.attention is None else layer.attention.tolist())
        if sequence.window is not None:
            found.append(sequence.window.queries(number).tolist())
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_next_turns_are_those_without_the_detour(
    four_layers_dir: Path, mixed_dir: Path, tmp_path: Path, precision: str
) -> None:
    folder, stored = (mixed_dir, {}) if precision == "mixed" else (four_layers_dir, {})
    if precision != "mixed":
        key, value = precision.split("/")
        stored = {"key_cache_precision": key, "value_cache_precision": value}
    turns = [prompt_of(60, 1), prompt_of(200, 2)]
    cases, wanted = [], []
    for name, policy in POLICIES.items():
        settings = {**stored, **policy}
        engine, session = bare_engine(folder, **settings), Session()
        ask(engine, session, prompt_of(400))
        path = tmp_path / f"{name}.safetensors"
        engine.save_session(session, path, ABOUT)
        before = engine.cache.used_bytes
        here = load(engine, path)
        assert engine.cache.used_bytes == 2 * before
        assert state(here) == state(session)
        wanted.append([ask(engine, session, turn) for turn in turns])
        assert [ask(engine, here, turn) for turn in turns] == wanted[-1], name
        engine.close_session(session)
        engine.close_session(here)
        assert engine.cache.used_bytes == 0
        cases.append(
            {"folder": str(folder), "settings": settings, "path": str(path), "turns": turns}
        )
    # A process takes long to begin: two policies for each precision, all in turn.
    chosen = [(PRECISIONS.index(precision) + n) % len(cases) for n in (0, 1)]
    assert continue_in_new_process([cases[n] for n in chosen]) == [wanted[n] for n in chosen]


def test_layers_with_a_sliding_window_go_on_too(tmp_path: Path) -> None:
    folder = exported_random("Gemma3")  # has layers of both kinds
    u8: dict[str, Any] = {"key_cache_precision": "u8", "value_cache_precision": "u8"}
    engine, session = bare_engine(folder, **CUT_OFTEN, **u8), Session()
    ask(engine, session, prompt_of(300))
    engine.save_session(session, tmp_path / "chat.safetensors", ABOUT)
    here = load(engine, tmp_path / "chat.safetensors")
    assert state(here) == state(session)
    assert ask(engine, here, prompt_of(50, 1)) == ask(engine, session, prompt_of(50, 1))


def test_a_cache_can_be_taken_back_as_far_as_before(engine: PagedEngine, saved: Path) -> None:
    session = load(engine, saved)
    assert session.sequence is not None
    floor = session.sequence.rewind_floor
    tokens = session.token_ids[: floor + 3]
    session.sequence.tokens[floor + 3 :] = []
    session.sequence.rewind_cache_to(floor + 3)
    assert len(ask(engine, session, [9])) == 40
    assert session.token_ids[: len(tokens)] == tokens
    engine.close_session(session)


# ------------------------------------------------------------------ the file


def test_the_file_is_what_others_read_as_safetensors(engine: PagedEngine, saved: Path) -> None:
    tensors = load_file(saved)
    assert tensors["tokens"].tolist()[:400] == prompt_of(400)
    session = load(engine, saved)
    assert session.sequence is not None
    for number, (layer, memory) in enumerate(
        zip(session.sequence.layers, engine.model.memories, strict=True)
    ):
        np.testing.assert_array_equal(tensors[f"layers.{number}.keys"], memory.keys[layer.pages])
    engine.close_session(session)


def test_nothing_of_other_sequences_is_in_it(needle_int8_dir: Path, tmp_path: Path) -> None:
    engine = bare_engine(needle_int8_dir)
    for memory in engine.model.memories:
        memory.keys[:], memory.values[:] = 255, 255
    session = Session()
    ask(engine, session, prompt_of(40), count=1)
    engine.save_session(session, tmp_path / "chat.safetensors", ABOUT)
    tensors = load_file(tmp_path / "chat.safetensors")
    assert session.sequence is not None
    assert session.sequence.num_cached == 40
    layout = engine.model.layouts[0]
    rows = layout.key_header_bytes + 8 * layout.key_row_bytes
    assert not tensors["layers.0.keys"][1, :, rows:].any()
    assert not tensors["layers.0.values"][1, :, 8:].any()
    assert tensors["layers.0.values"][1, :, :8].any()


# ------------------------------------------------------------------ another engine


def test_a_smaller_budget_cuts_when_it_is_due(
    needle_int8_dir: Path, tmp_path: Path, engine: PagedEngine
) -> None:
    full, session = bare_engine(needle_int8_dir), Session()
    ask(full, session, prompt_of(500))
    path = tmp_path / "chat.safetensors"
    full.save_session(session, path, ABOUT)
    here = load(engine, path)
    assert here.sequence is not None
    assert here.sequence.num_kept == 539
    ask(engine, here, prompt_of(60, 1), count=2)
    assert here.sequence.num_kept <= 100 + 2
    engine.close_session(here)


@pytest.mark.parametrize(
    "policy",
    [POLICIES["everything"], POLICIES["page"], {**CUT_OFTEN, "layer_budgets": [2, 1, 4, 1] * 2}],
    ids=["everything", "page", "token"],
)
def test_another_policy_goes_on(needle_int8_dir: Path, saved: Path, policy: dict[str, Any]) -> None:
    other = bare_engine(needle_int8_dir, **policy)
    session = load(other, saved)
    assert len(ask(other, session, prompt_of(300, 1), count=60)) == 60


def test_attention_that_was_not_summed_up_is_refused(needle_int8_dir: Path, saved: Path) -> None:
    engine = bare_engine(needle_int8_dir, **POLICIES["h2o"])
    with pytest.raises(SessionError, match="without the attention"):
        load(engine, saved)
    assert engine.cache.used_bytes == 0
    engine.check_integrity()


def test_attention_that_is_not_wanted_is_left_out(
    needle_int8_dir: Path, engine: PagedEngine, tmp_path: Path
) -> None:
    summing, session = bare_engine(needle_int8_dir, **POLICIES["h2o"]), Session()
    ask(summing, session, prompt_of(400))
    summing.save_session(session, tmp_path / "chat.safetensors", ABOUT)
    here = load(engine, tmp_path / "chat.safetensors")
    assert len(ask(engine, here, prompt_of(200, 1))) == 40
    engine.close_session(here)


@pytest.mark.parametrize("pool", [64, 192])
def test_a_pool_without_room_is_one_error_and_leaks_nothing(
    needle_int8_dir: Path, engine: PagedEngine, saved: Path, pool: int
) -> None:
    same = {**CUT_OFTEN, "head_budgets": engine.config.head_budgets}
    engine = bare_engine(needle_int8_dir, pool_size=pool, **same)
    pinned = Session(pinned=True, is_prefix=True)
    ask(engine, pinned, prompt_of(50), count=1)
    before = engine.cache.used_bytes
    if pool == 192:  # it takes what is left, so that there is none for a second one
        load(engine, saved)
        pinned_too = load(engine, saved, Session(pinned=True))
        before = engine.cache.used_bytes
        assert pinned_too.sequence is not None
    with pytest.raises(SessionError, match="has no room for it"):
        load(engine, saved)
    assert engine.cache.used_bytes == before
    engine.check_integrity()


def test_a_read_that_fails_halfway_leaves_no_page(
    engine: PagedEngine, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engine.cache.used_bytes
    with engine.open_session(saved) as stored:
        read = stored._file.read

        def fail(name: str) -> np.ndarray:
            if name == "layers.5.values":
                raise MemoryError
            return read(name)

        monkeypatch.setattr(stored._file, "read", fail)
        with pytest.raises(MemoryError):
            engine.load_session(stored, Session())
    assert engine.cache.used_bytes == before
    engine.check_integrity()
