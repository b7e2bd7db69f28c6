"""The gate as it is fitted, on the repository's model and on ones that need none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.export.gate import measure_gate
from ov_kvcrush.export.gate import measurement as module
from ov_kvcrush.export.texts.passages import read_tokens, spread_passages
from ov_kvcrush.progress import Silent
from ov_kvcrush.runtime.model.paged_model import PagedModel
from tests.support.engines import F32, prompt_of
from tests.support.exported import exported_random
from tests.support.model_factory import SLIDING_WINDOW


class Shares(Silent):
    def __init__(self) -> None:
        self.told: list[float] = []

    def advance(self, share: float) -> None:
        self.told.append(share)


@pytest.fixture(scope="module")
def passages(needle_int8_dir: Path) -> list[list[int]]:
    return spread_passages(read_tokens(needle_int8_dir), 8, 256)


def test_the_gate_tells_what_a_repetition_will_look_at(
    needle_int8_dir: Path, passages: list[list[int]]
) -> None:
    model, progress = PagedModel(needle_int8_dir, shows_states=True), Shares()
    found = measure_gate(model, passages[:-2], passages[-2:], progress)
    assert len(found.correlation) == 8
    assert min(found.correlation) > 0.2
    assert np.mean(found.correlation) > 0.4
    assert {weights.shape for weights in found.gate.weights} == {(384, 4)}
    assert progress.told == pytest.approx(np.arange(1, 9) / 8)


def test_nothing_held_back_says_nothing_of_how_well_it_does(
    needle_int8_dir: Path, passages: list[list[int]]
) -> None:
    model = PagedModel(needle_int8_dir, shows_states=True)
    found = measure_gate(model, passages[:1], [], Silent())
    assert np.isnan(found.correlation).all()
    assert all(np.abs(weights).max() > 0 for weights in found.gate.weights)


def test_the_seed_says_which_tokens_are_learnt_from(
    needle_int8_dir: Path, passages: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STATE_BYTES", 1e6)  # not room for all
    model = PagedModel(needle_int8_dir, shows_states=True)
    one, again, other = (
        measure_gate(model, passages[:1], [], Silent(), seed=seed).gate for seed in (0, 0, 1)
    )
    assert one.digest == again.digest != other.digest


def test_layers_with_a_sliding_window_get_zeros() -> None:
    model = PagedModel(exported_random("Gemma3"), properties=F32, shows_states=True)
    texts = [prompt_of(3 * SLIDING_WINDOW, seed) for seed in range(2)]
    found = measure_gate(model, texts[:1], texts[1:], Silent())
    slides = [layer.sliding_window > 0 for layer in model.layers]
    assert slides == [True, False]
    assert [not weights.any() for weights in found.gate.weights] == slides
    assert np.isnan(found.correlation).tolist() == slides


def test_a_model_that_only_slides_needs_no_gate() -> None:
    model = PagedModel(exported_random("Mistral"), properties=F32, shows_states=True)
    with pytest.raises(UnsupportedError, match="every layer has a sliding window"):
        measure_gate(model, [prompt_of(40)], [], Silent())
