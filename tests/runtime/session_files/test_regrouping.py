"""Caches saved with some groups of KV heads, gone on from with others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages.cache_layer import (
    CacheLayer,
    cache_layers,
    each_head,
    undivided,
    whole_layers,
)
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.session_files.regrouping import (
    RegroupingError,
    groups_to_json,
    read_groups,
    regrouped,
    regrouping,
)
from ov_kvcrush.runtime.session_files.sequence_state import LayerState, SequenceState, StateError
from tests.support.damaged_sessions import signed
from tests.support.engines import F32, bare_engine, prompt_of
from tests.support.head_groups import GROUPINGS, divided, held_by_head, listen
from tests.support.session_process import ABOUT, CUT_OFTEN, ask, load

LAYERS = (LayerGeometry(8, 4, 4, 4), LayerGeometry(6, 3, 4, 4))


@st.composite
def groups(draw: st.DrawFn) -> tuple[CacheLayer, ...]:
    """Any cache layers of the model: heads in any order, in any groups."""
    found = []
    for layer in LAYERS:
        order = draw(st.permutations(range(layer.num_kv_heads)))
        cuts = sorted(draw(st.sets(st.integers(1, layer.num_kv_heads - 1))))
        bounds = [0, *cuts, layer.num_kv_heads]
        found.append([order[a:b] for a, b in itertools.pairwise(bounds)])
    return cache_layers(LAYERS, found)


def state_of(layers: Sequence[CacheLayer], lengths: Sequence[int]) -> SequenceState:
    """A state in which every number tells layer, head and place."""
    states = []
    for layer in layers:
        length = lengths[layer.layer]
        heads = np.array([1000 * layer.layer + 100 * head for head in layer.heads], np.float32)
        of_queries = np.repeat(heads, 2) + np.tile([0.0, 0.5], len(heads))
        by_slot = heads[:, None] + np.arange(length)
        states.append(
            LayerState(
                by_slot.astype(np.int32),
                by_slot.astype(np.int32) + 1,
                (of_queries[:, None] + np.arange(length)).astype(np.float32),
                np.tile(of_queries[None, :, None], (2, 1, 4)).astype(np.float32),
                by_slot.astype(np.float32),
            )
        )
    return SequenceState(np.arange(9), 9, 9, (), tuple(states))


def same(one: SequenceState, other: SequenceState) -> bool:
    pairs = zip(one.layers, other.layers, strict=True)
    return all(
        np.array_equal(getattr(mine, name), getattr(its, name))
        for mine, its in pairs
        for name in ("positions", "slots", "attention", "queries", "gate")
    )


@given(groups(), groups())
def test_any_groups_of_equal_lengths_become_any_others(
    saved: tuple[CacheLayer, ...], wanted: tuple[CacheLayer, ...]
) -> None:
    state = state_of(saved, [5, 7])
    found = regrouped(state, regrouping(saved, wanted), wanted)
    assert same(found, state_of(wanted, [5, 7]))
    assert same(regrouped(found, regrouping(wanted, saved), saved), state)


@given(groups())
def test_a_file_says_which_heads_it_holds(saved: tuple[CacheLayer, ...]) -> None:
    whole = cache_layers(LAYERS, undivided(LAYERS))
    assert whole_layers(saved) == whole
    assert read_groups(groups_to_json(saved), whole) == saved
    assert read_groups(None, whole) == whole


@pytest.mark.parametrize(
    "stored", [7, [[0]], [[0, [0, 1, 2, 3]]], [[0, [0, 1, 2, 3]], [1, [0, 1, 1]]], [[0, "x"]]]
)
def test_groups_that_are_not_all_heads_once_are_refused(stored: Any) -> None:
    whole = cache_layers(LAYERS, undivided(LAYERS))
    with pytest.raises(StateError, match="groups of KV heads"):
        read_groups(stored, whole)


def test_heads_of_different_lengths_cannot_share_a_cache() -> None:
    apart, whole = (cache_layers(LAYERS, make(LAYERS)) for make in (each_head, undivided))
    state = state_of(apart, [5, 7])
    longer = LayerState(
        *(np.zeros((1, 9), np.int32),) * 2, None, np.zeros((2, 2, 4), np.float32), None
    )
    state = SequenceState(state.tokens, 9, 9, (), (longer, *state.layers[1:]))
    with pytest.raises(RegroupingError, match="heads 0 to 3 of layer 0 hold 5 to 9 tokens"):
        regrouped(state, regrouping(apart, whole), whole)


# ------------------------------------------------------------------ engines


def saved_by(engine: PagedEngine, path: Path, turns: int = 2) -> Session:
    session = Session()
    for turn in range(turns):
        ask(engine, session, prompt_of(300, turn))
    engine.save_session(session, path, ABOUT)
    return session


def by_head(engine: PagedEngine, session: Session) -> dict[tuple[int, int], list[Any]]:
    assert session.sequence is not None
    return held_by_head(engine, session.sequence)


def test_a_cache_of_whole_layers_goes_on_in_groups_as_it_would_have(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    """Nothing was evicted yet, so all heads hold as much; the groups are cut from then on."""
    whole = bare_engine(needle_int8_dir)
    apart = bare_engine(needle_int8_dir, **CUT_OFTEN)
    assert len(apart.model.layers) > len(whole.model.layers)
    session = saved_by(whole, tmp_path / "chat.safetensors", turns=1)
    here = load(apart, tmp_path / "chat.safetensors")
    assert by_head(apart, here) == by_head(whole, session)
    assert len(ask(apart, here, prompt_of(300, 5))) == 40
    assert here.sequence is not None
    assert here.sequence.cuts
    apart.check_integrity()


def test_a_cache_of_groups_is_read_again_where_layers_are_whole(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    apart = bare_engine(needle_int8_dir, **CUT_OFTEN)
    session = saved_by(apart, tmp_path / "chat.safetensors")
    tokens = list(session.token_ids)
    whole = bare_engine(needle_int8_dir, **CUT_OFTEN, head_budgets="off")
    here = load(whole, tmp_path / "chat.safetensors")
    assert here.sequence is None
    assert "KV heads" in here.lost
    assert len(ask(whole, here, prompt_of(300, 5))) == 40
    assert not here.lost
    again = load(apart, tmp_path / "chat.safetensors")
    assert list(again.token_ids) == tokens
    assert by_head(apart, again) == by_head(apart, session)


CHATS: dict[str, dict[str, Any]] = {
    "u8": {"key_cache_precision": "u8", "value_cache_precision": "u8"},
    "f32": {"key_cache_precision": "f32", "value_cache_precision": "f32"},
    "u8/u4, summed": {
        "key_cache_precision": "u8", "value_cache_precision": "u4", "importance": "h2o",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPINGS)
@pytest.mark.parametrize("chat", CHATS)
def test_groups_made_of_a_file_go_on_to_the_last_bit(
    four_layers_dir: Path, tmp_path: Path, chat: str, name: str
) -> None:
    """Where all heads have the same budget it does not matter who shares a cache."""
    settings = {**CUT_OFTEN, **CHATS[chat], "layer_budgets": "uniform", "properties": F32}
    whole = bare_engine(four_layers_dir, **settings)
    with divided(GROUPINGS[name]):
        apart = bare_engine(four_layers_dir, **settings)
    assert len(apart.model.layers) > len(whole.model.layers)
    path, logits = tmp_path / "chat.safetensors", [listen(engine) for engine in (whole, apart)]
    held = []
    for saving, loading in ((whole, apart), (apart, whole), (apart, apart)):
        session = saved_by(saving, path)
        here = load(loading, path)
        assert by_head(loading, here) == by_head(saving, session)
        assert here.sequence is not None
        num_cuts = len(here.sequence.cuts)
        # As it goes on without the detour, and with it.
        for engine, one in ((saving, session), (loading, here)):
            for told in logits:
                told.clear()
            for turn in (prompt_of(60, 5), prompt_of(200, 6)):
                ask(engine, one, turn)
            assert one.sequence is not None
            assert len(one.sequence.cuts) > num_cuts
            held.append((by_head(engine, one), np.concatenate([*logits[0], *logits[1]])))
            engine.close_session(one)
    for found, rows in held[1:]:
        assert found == held[0][0]
        np.testing.assert_array_equal(rows, held[0][1])


def _forget_groups(metadata: dict[str, str], content: dict[str, Any], _: Any) -> None:
    metadata["version"] = "2"
    del content["cache_layers"]


def test_a_file_from_before_there_were_groups_loads(needle_int8_dir: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "chat.safetensors", {**CUT_OFTEN, "head_budgets": "off"}
    engine = bare_engine(needle_int8_dir, **whole)
    session = saved_by(engine, path)
    assert session.sequence is not None
    assert session.sequence.cuts
    signed(_forget_groups)(path)
    for settings in (whole, CUT_OFTEN):
        other = bare_engine(needle_int8_dir, **settings)
        here = load(other, path)
        assert by_head(other, here) == by_head(engine, session)
        assert len(ask(other, here, prompt_of(200, 5))) == 40


def test_every_tensor_of_a_file_is_read_once(
    needle_int8_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bare_engine(needle_int8_dir)
    saved_by(whole, tmp_path / "chat.safetensors", turns=1)
    with divided(each_head):
        apart = bare_engine(needle_int8_dir)
    names: list[str] = []
    with apart.open_session(tmp_path / "chat.safetensors") as stored:
        read = stored._file.read

        def listening(name: str) -> Any:
            names.append(name)
            return read(name)

        monkeypatch.setattr(stored._file, "read", listening)
        apart.load_session(stored, Session())
    sides = ("keys", "values")
    assert names == [f"layers.{number}.{side}" for number in range(8) for side in sides]
