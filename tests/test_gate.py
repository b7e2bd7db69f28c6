"""The gate's file: written whole, read back as it was, and refused where it is not this model's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ov_kvcrush.errors import ModelError
from ov_kvcrush.gate import GATE_FILE, Gate
from ov_kvcrush.model_folder import GRAPH_FILE, WEIGHTS_FILE, fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / GRAPH_FILE).write_text("<net/>")
    (tmp_path / WEIGHTS_FILE).write_bytes(b"weights")
    return tmp_path


def gate_of(folder: Path, seed: int = 0) -> Gate:
    rng = np.random.default_rng(seed)
    return Gate(
        tuple(rng.normal(size=(8, heads)).astype(np.float32) for heads in (2, 3)),
        tuple(rng.normal(size=heads).astype(np.float32) for heads in (2, 3)),
        fingerprint(folder),
        {"texts": ["prose"], "seconds": 1.5},
    )


def test_what_was_saved_is_loaded(folder: Path) -> None:
    gate = gate_of(folder)
    assert gate.save(folder) == folder / GATE_FILE
    loaded = Gate.load(folder)
    assert loaded is not None
    for ours, its in ((gate.weights, loaded.weights), (gate.biases, loaded.biases)):
        for saved, read in zip(ours, its, strict=True):
            np.testing.assert_array_equal(saved, read)
    assert (loaded.about, loaded.digest) == (gate.about, gate.digest)
    assert gate_of(folder, seed=1).digest != gate.digest


def test_a_gate_is_trusted_where_the_model_repeats_texts(folder: Path) -> None:
    gate = gate_of(folder)
    assert gate.is_trusted
    for nats, is_trusted in ((0.15, True), (0.64, False)):
        assert dataclasses.replace(gate, about={"nats_repeating": nats}).is_trusted == is_trusted


def test_without_a_file_there_is_no_gate(folder: Path) -> None:
    assert Gate.load(folder) is None


def test_the_gate_of_another_model_is_refused(folder: Path) -> None:
    gate_of(folder).save(folder)
    (folder / GRAPH_FILE).write_text("<net>other</net>")
    with pytest.raises(ModelError, match="made for another model") as refusal:
        Gate.load(folder)
    assert "ov-kvcrush calibrate" in refusal.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors at all",
        b"\xff" * 64,
        (64).to_bytes(8, "little") + b"[" * 64,
        (2).to_bytes(8, "little") + b"{}",
        (1 << 62).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_damaged_file_is_one_clear_error(folder: Path, content: bytes) -> None:
    (folder / GATE_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        Gate.load(folder)


def test_a_file_that_was_cut_short_is_refused_wherever_it_ends(folder: Path) -> None:
    path = gate_of(folder).save(folder)
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="is damaged"):
            Gate.load(folder)


def test_another_format_version_is_named(folder: Path) -> None:
    path = gate_of(folder).save(folder)
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"7"'))
    with pytest.raises(ModelError, match="format version 7, not 1"):
        Gate.load(folder)


@pytest.mark.parametrize(
    ("weights", "biases"),
    [
        ([], []),
        ([np.zeros((8, 2), np.float32)], []),
        ([np.zeros((8, 2), np.float32)], [np.zeros(3, np.float32)]),
        ([np.zeros(8, np.float32)], [np.zeros(8, np.float32)]),
        ([np.zeros((8, 2))], [np.zeros(2)]),
        ([np.full((8, 2), np.nan, np.float32)], [np.zeros(2, np.float32)]),
    ],
)
def test_parts_that_do_not_go_together_make_no_gate(
    weights: list[np.ndarray], biases: list[np.ndarray]
) -> None:
    with pytest.raises(ValueError, match="layer"):
        Gate(tuple(weights), tuple(biases), "")
