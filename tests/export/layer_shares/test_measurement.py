"""Which heads look back: measured on a model that copies, and on ones where nothing can be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.export.layer_shares import measure_head_shares, measurement
from ov_kvcrush.export.layer_shares.measurement import HeadShares
from ov_kvcrush.export.subject import compile_subject
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.model.paged_graph import read_geometry
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.cache_layer import each_head
from tests.support.engines import F32
from tests.support.half_sliding import export_half_sliding
from tests.support.model_factory import make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's


class Notes:
    """A progress that remembers its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, number: int, total: int, title: str) -> None:
        pass

    def advance(self, share: float) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def measure(model: PagedModel, folder: Path, context_length: int, progress: Notes) -> HeadShares:
    """Shares of the heads of ``model``, which is compiled already."""
    layers = read_geometry(folder)
    return measure_head_shares(lambda: model, layers, folder, context_length, progress)


def test_the_plan_favours_the_heads_that_retrieve(needle_int8_dir: Path) -> None:
    plan = KVPlan.load(needle_int8_dir)
    assert plan is not None
    shares = np.array(plan.head_shares)
    assert shares.shape == (8, 4)
    assert shares.mean() == pytest.approx(1, abs=1e-3)
    assert shares.min() > 0.15
    np.testing.assert_array_equal(shares, shares.round(3))
    # One layer retrieves, and one of its heads has no part in it.
    assert sorted(np.argsort(shares.ravel())[-3:]) == [4 * 6 + 0, 4 * 6 + 2, 4 * 6 + 3]
    assert shares[6, [0, 2, 3]].min() > 3
    assert shares[6, 1] < 0.5
    assert np.argmax(plan.layer_shares) == 6
    assert np.mean(plan.layer_shares) == pytest.approx(1)


def test_heads_that_share_a_cache_share_what_it_is_worth(needle_int8_dir: Path) -> None:
    shares = np.array(measure(PagedModel(needle_int8_dir), needle_int8_dir, 1024, Notes()))
    assert shares.mean() == pytest.approx(1, abs=1e-3)
    assert np.argmax(shares.mean(axis=1)) == 6
    # Who of them looks back is told by count and induction alone.
    assert 1 < shares[6, 1] < shares[6, [0, 2, 3]].min()


def test_it_costs_no_more_pages_than_the_text_and_the_passages(needle_int8_dir: Path) -> None:
    model = PagedModel(needle_int8_dir, grouping=each_head)
    progress = Notes()
    shares = measure(model, needle_int8_dir, 1024, progress)
    assert np.argmax(np.mean(shares, axis=1)) == 6
    assert progress.notes == []
    # The context, which text and repetition fill, and two for each of four passages of 40 tokens.
    (num_pages,) = {len(memory.keys) for memory in model.memories}
    assert 1024 // 32 - 2 < num_pages - 4 * 2 <= 1024 // 32


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_do_not_look_back(tmp_path: Path, seed: int) -> None:
    source = make_model(tmp_path / "source", seed=seed, num_hidden_layers=4)
    progress = Notes()
    plan = export_model(ExportOptions(model=str(source), output=tmp_path / "model"), progress)
    assert plan.head_shares == ()
    assert progress.notes == ["no head was found to look back: all get the same part of a budget"]


def test_layers_with_a_window_have_no_budget_to_divide(tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", "Mistral")
    progress = Notes()
    plan = export_model(ExportOptions(model=str(source), output=tmp_path / "model"), progress)
    assert plan.head_shares == ()
    assert not any("look back" in note for note in progress.notes)


def test_a_layer_with_a_window_is_measured_with_nothing_of_it_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = export_half_sliding()
    model = compile_subject(folder, properties=F32).divided()
    assert [(part.layer, tuple(part.heads)) for part in model.cache_layers] == [
        (0, (0, 1)),
        (1, (0,)),
        (1, (1,)),
        (2, (0, 1)),
        (3, (0,)),
        (3, (1,)),
    ]
    # Random weights copy nothing, which would end the measurement.
    monkeypatch.setattr(measurement, "looks_back", lambda *_: True)
    shares = np.array(measure(model, folder, 512, Notes()))
    assert shares.shape == (4, 2)
    np.testing.assert_array_equal(shares[[0, 2]], 1)
    assert shares[[1, 3]].mean() == pytest.approx(1, abs=1e-3)
    assert len(set(shares[[1, 3]].ravel())) > 1


def test_a_short_context_is_told(needle_int8_dir: Path) -> None:
    progress = Notes()
    assert measure(PagedModel(needle_int8_dir), needle_int8_dir, 256, progress) == ()
    assert progress.notes == [
        "which heads look back could not be measured: a context of 256 tokens is too short"
    ]


def test_a_failure_is_told_and_does_no_harm(needle_int8_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(needle_int8_dir, tmp_path / "model")
    (folder / "openvino_tokenizer.xml").unlink()
    progress = Notes()
    assert measure(PagedModel(folder), folder, 8192, progress) == ()
    (note,) = progress.notes
    assert note.startswith("which heads look back could not be measured: ")
    assert note.endswith("holds no openvino_tokenizer.xml")


def test_a_failing_inference_is_told_in_one_line(
    needle_int8_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Exception from src/inference:\nthe shapes do not fit\n")

    model = PagedModel(needle_int8_dir)
    monkeypatch.setattr(model, "forward", fail)
    progress = Notes()
    assert measure(model, needle_int8_dir, 8192, progress) == ()
    assert progress.notes == ["which heads look back could not be measured: the shapes do not fit"]
