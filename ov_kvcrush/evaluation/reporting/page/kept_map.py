"""Maps of the tokens that each KV head kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.reporting.page.svg import log_ticks, picture, to_svg
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults

KeptMap = tuple[str, Configuration, NDArray[np.float64]]
"""Setting, configuration, and tokens kept by layer and KV head, mean over samples."""


def kept_maps(results: SuiteResults) -> Iterator[KeptMap]:
    """One for each setting and cut cache whose cells say what each head kept."""
    for setting in results.settings:
        for configuration in results.measured(setting):
            if configuration.keep is None:
                continue
            there = results.cells(setting, configuration)
            grids = [_grid(cell.kept_by_head) for cell in there if cell and cell.kept_by_head]
            if grids and all(grid.shape == grids[0].shape for grid in grids):
                yield setting, configuration, np.mean(grids, axis=0)


def kept_picture(grid: NDArray[np.float64], limits: tuple[float, float], name: str) -> Markup:
    """Tokens kept by layer (across) and KV head (down), on a log scale.

    Args:
        grid: tokens, shape ``[layers, heads]``; NaN where a layer has fewer heads.
        limits: least and most tokens of all maps of the page, so that their colours compare.
        name: of the picture, another one for each of a page.
    """
    from matplotlib.colors import LogNorm

    low = max(1.0, limits[0])
    high = max(low * 1.01, limits[1])
    num_layers, num_heads = grid.shape
    with picture(name, 1.1 + min(3.0, 0.16 * max(2, num_heads))) as figure:
        axes = figure.subplots()
        image = axes.imshow(
            np.maximum(grid, low).T,
            norm=LogNorm(low, high),
            cmap="viridis",
            aspect="auto",
            interpolation="none",
        )
        axes.set_xlabel("layer")
        axes.set_ylabel("KV head")
        axes.set_xticks(range(0, num_layers, math.ceil(num_layers / 10)))
        axes.set_yticks(range(0, num_heads, math.ceil(num_heads / 8)))
        ticks = log_ticks(low, high)
        bar = figure.colorbar(image, ax=axes, pad=0.02, label="tokens")
        bar.minorticks_off()
        bar.set_ticks(ticks, labels=[f"{tokens:,.0f}" for tokens in ticks])
        return to_svg(
            figure,
            f"Tokens kept by {num_layers} layers and {num_heads} KV heads, "
            f"{np.nanmin(grid):,.0f} to {np.nanmax(grid):,.0f}",
        )


def limits_of(maps: Sequence[KeptMap]) -> tuple[float, float]:
    """Least and most tokens in any of ``maps``."""
    return (
        min(float(np.nanmin(grid)) for *_, grid in maps),
        max(float(np.nanmax(grid)) for *_, grid in maps),
    )


def _grid(kept: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """As an array; NaN fills up layers with fewer heads."""
    grid = np.full((len(kept), max(map(len, kept))), np.nan)
    for layer, heads in enumerate(kept):
        grid[layer, : len(heads)] = heads
    return grid
