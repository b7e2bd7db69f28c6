"""The picture of which heads remember, of any number of layers and heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.inspection.picture import save_heat_map

Shares = Sequence[Sequence[float | None]]


def drawn_shares(layers: int, heads: int) -> list[list[float]]:
    rng = np.random.default_rng(0)
    return [list(map(float, rng.lognormal(size=heads))) for _ in range(layers)]


@pytest.mark.parametrize(
    "shares",
    [
        drawn_shares(16, 8),
        drawn_shares(30, 3),
        drawn_shares(24, 1),
        drawn_shares(1, 1),
        drawn_shares(80, 64),
        [[1.0, 1.0], [1.0, 1.0]],
        [[0.0, 100.0], [None, None]],
        [[None]],
        [[1.0], [2.0, 0.5, 0.5]],
    ],
    ids=["16x8", "30x3", "24x1", "1x1", "80x64", "even", "zero", "windows", "uneven"],
)
def test_any_model_is_drawn_in_a_size_that_can_be_looked_at(shares: Shares, tmp_path: Path) -> None:
    path = tmp_path / "heads.png"
    save_heat_map(shares, path, "a model whose name has $ and \u4e2d in it", "times an even share")
    height, width, _ = imread(path).shape
    assert 600 < width <= 150 * 17
    assert 300 < height <= 150 * 11


def test_large_shares_are_brighter_than_small_ones(tmp_path: Path) -> None:
    brightness = []
    for name, shares in (("small", [[0.1, 0.1], [0.1, 9.0]]), ("large", [[9.0, 9.0], [9.0, 0.1]])):
        path = tmp_path / f"{name}.png"
        save_heat_map(shares, path, "model", "times an even share")
        picture = imread(path)
        brightness.append(float(picture[: len(picture) // 2, :500, 1].mean()))
    assert brightness[0] < brightness[1]


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OVKVCrushError, match="cannot write"):
        save_heat_map([[1.0]], tmp_path / "no" / "heads.png", "model", "times an even share")
