"""What a gate says of a token stays with it whatever happens to its cache, and decides the cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.errors import ConfigError, ModelError
from ov_kvcrush.gate import GATE_FILE, Gate
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_graph import Forward
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.damaged_sessions import Tensors, signed
from tests.support.engines import (
    EVICTING,
    EXACT,
    F32,
    engine_of,
    finish,
    greedy,
    prompt_of,
    read_prompt,
    sequence_of,
)
from tests.support.gates import gated, ungated
from tests.support.session_process import ABOUT, ask, load

Make = Callable[..., PagedEngine]
READING = {**EVICTING, "prefill_budget": 128}


@pytest.fixture(scope="module")
def folder(needle_f32_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gated(tmp_path_factory.mktemp("gated"), needle_f32_dir)


@pytest.fixture(scope="module")
def bare(needle_f32_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model without a gate."""
    return ungated(tmp_path_factory.mktemp("bare"), needle_f32_dir)


@pytest.fixture(scope="module")
def make(folder: Path) -> Make:
    return partial(
        engine_of, folder, properties=F32, max_num_batched_tokens=128, pool_size=4096, **EXACT
    )


class Said:
    """All that the gate says while an engine runs one sequence at a time, by position."""

    def __init__(self, engine: PagedEngine) -> None:
        self._scores: list[dict[int, NDArray[np.float32]]] = [{} for _ in engine.model.layers]
        forward = engine.model.forward

        def listening(batch: Batch) -> Forward:
            told = forward(batch)
            for scores, layer in zip(self._scores, told.gates, strict=True):
                for position, row in zip(batch.position_ids.tolist(), layer, strict=True):
                    scores[position] = row.copy()
            return told

        engine.model.forward = listening  # type: ignore[method-assign]

    def require_beside(self, sequence: Sequence) -> None:
        assert sequence.is_scored
        for layer, scores in zip(sequence.layers, self._scores, strict=True):
            gate = layer.gate
            assert gate is not None
            for head, positions in enumerate(layer.positions):
                wanted = [scores[position][head] for position in positions.tolist()]
                np.testing.assert_array_equal(gate[head], wanted)


def test_scores_stay_beside_their_tokens_through_cuts_and_decoding(make: Make) -> None:
    engine = make(**READING)
    said = Said(engine)
    request = engine.add_request(prompt_of(500), greedy(60))
    sequence = sequence_of(request)
    num_cuts = 0
    while not request.finished:
        engine.step()
        if not request.finished:
            said.require_beside(sequence)
            num_cuts = len(sequence.cuts)
    # Two while it is read, one at its end, and three when the answer outgrows the slack of 16.
    assert num_cuts == 6


def test_a_sequence_that_gave_up_its_cache_is_scored_again(make: Make) -> None:
    engine = make(**READING)
    said = Said(engine)
    request = engine.add_request(prompt_of(300), greedy(20))
    sequence = sequence_of(request)
    while len(request.generations[0].tokens) < 5:
        engine.step()
    engine.preempt(sequence)
    while len(request.generations[0].tokens) < 10:
        engine.step()
    said.require_beside(sequence)


def test_a_fork_and_a_prefix_have_the_scores_of_what_they_share(make: Make) -> None:
    engine = make(**READING)
    said = Said(engine)
    prefix = Session(pinned=True, is_prefix=True)
    finish(engine, engine.add_request(prompt_of(300), greedy(1), prefix))
    assert prefix.sequence is not None
    said.require_beside(prefix.sequence)
    # Behind the prefix, 50 more tokens and an answer.
    request = engine.add_request([*prompt_of(300), *prompt_of(50, 1)], greedy(4), prefix=prefix)
    sequence = sequence_of(request)
    assert sequence.is_scored
    finish(engine, request)
    assert request.generations[0].metrics.num_reused_tokens == 300


def test_the_rule_keeps_what_the_gate_scores_highest(make: Make) -> None:
    engine = make(
        **EVICTING,
        prefill_budget=0,
        representatives="gate",
        representative_share=1.0,
        layer_budgets="uniform",
    )
    said = Said(engine)
    sequence = read_prompt(engine, prompt_of(200))
    said.require_beside(sequence)
    start, recent = EVICTING["start_size"], EVICTING["recent_size"]
    for scores, layer in zip(said._scores, sequence.layers, strict=True):
        middle = range(start, 200 - recent)
        for head, positions in enumerate(layer.positions):
            ranked = sorted(middle, key=lambda t: (-scores[t][head], t))
            kept = sorted(ranked[: EVICTING["max_cache_size"] - start - recent])
            assert positions[start : len(kept) + start].tolist() == kept


def test_by_default_a_model_with_a_gate_is_cut_by_it(make: Make, bare: Path, folder: Path) -> None:
    config = make(**EVICTING).config
    assert (config.representatives, config.kernel_size) == ("gate_distinct", 1)
    assert make(**EVICTING, representatives="distinct").model.has_gate is False
    without = engine_of(bare, **EVICTING)
    assert (without.config.representatives, without.config.kernel_size) == ("distinct", 31)
    assert without.model.has_gate is False
    assert engine_of(folder).model.has_gate is False  # nothing is ever cut


def test_a_gate_of_a_model_that_repeats_badly_has_to_be_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    gate = Gate.load(folder)
    assert gate is not None
    replace(gate, about={"nats_repeating": 2.0}).save(ungated(tmp_path, folder))
    engine = engine_of(tmp_path, **EVICTING)
    assert (engine.config.representatives, engine.model.has_gate) == ("distinct", False)
    assert engine_of(tmp_path, **EVICTING, representatives="gate").model.has_gate


def test_a_gate_that_is_not_there_is_asked_for_in_vain(bare: Path) -> None:
    with pytest.raises(ConfigError, match="needs a gate") as refusal:
        engine_of(bare, **EVICTING, representatives="gate")
    assert "ov-kvcrush calibrate" in refusal.value.hint


def test_a_gate_of_other_sizes_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    gate = Gate.load(folder)
    assert gate is not None
    (tmp_path / GATE_FILE).unlink()
    Gate(gate.weights[:-1], gate.biases[:-1], gate.fingerprint).save(tmp_path)
    with pytest.raises(ModelError, match="of other sizes"):
        engine_of(tmp_path, **EVICTING)


# ------------------------------------------------------------- sessions


def _forget_gate(metadata: dict[str, str], content: dict[str, Any], tensors: Tensors) -> None:
    metadata["version"] = "1"
    del content["gate"], content["state"]["has_gate"], content["cache_layers"]
    for name in [name for name in tensors if name.endswith(".gate")]:
        del tensors[name]


as_before_gates = signed(_forget_gate)
"""Makes of a session's file what the release before gates would have written."""


def scores_of(session: Session) -> list[Any]:
    assert session.sequence is not None
    return [None if one.gate is None else one.gate.tolist() for one in session.sequence.layers]


def positions_of(session: Session) -> list[Any]:
    assert session.sequence is not None
    return [layer.positions.tolist() for layer in session.sequence.layers]


def save(engine: PagedEngine, path: Path, turns: list[list[int]]) -> Session:
    """A session that was saved after ``turns``, and goes on."""
    session = Session()
    for turn in turns:
        ask(engine, session, turn)
    engine.save_session(session, path, ABOUT)
    return session


def test_later_cuts_of_a_resumed_session_are_those_without_the_detour(
    make: Make, tmp_path: Path
) -> None:
    engine = make(**READING)
    path = tmp_path / "chat.safetensors"
    session = save(engine, path, [prompt_of(400)])
    resumed = load(make(**READING), path)
    assert scores_of(resumed) == scores_of(session)
    other = make(**READING)
    resumed = load(other, path)
    for turn in (prompt_of(60, 1), prompt_of(200, 2)):
        assert ask(other, resumed, turn) == ask(engine, session, turn)
        assert positions_of(resumed) == positions_of(session)
        assert scores_of(resumed) == scores_of(session)


def test_a_file_of_the_version_before_loads_and_is_cut_as_without_a_gate(
    make: Make, needle_f32_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "chat.safetensors"
    save(make(**READING, head_budgets="off"), path, [prompt_of(400)])
    as_before_gates(path)
    engine = make(**READING)
    resumed = load(engine, path)
    assert not any(scores_of(resumed))
    plain = engine_of(
        needle_f32_dir, properties=F32, max_num_batched_tokens=128, pool_size=4096,
        **EXACT, **READING, representatives="distinct",
    )  # fmt: skip
    wanted = load(plain, path)
    for turn in (prompt_of(60, 1), prompt_of(200, 2)):
        assert ask(engine, resumed, turn) == ask(plain, wanted, turn)
        assert positions_of(resumed) == positions_of(wanted)


def test_scores_of_another_gate_are_left_out(
    make: Make, needle_f32_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "chat.safetensors"
    save(make(**READING), path, [prompt_of(400)])
    other = gated(tmp_path, needle_f32_dir, seed=1)
    engine = engine_of(other, properties=F32, pool_size=4096, **EXACT, **READING)
    resumed = load(engine, path)
    assert not any(scores_of(resumed))
    ask(engine, resumed, prompt_of(200, 2))
