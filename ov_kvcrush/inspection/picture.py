"""Which heads remember, as a picture: layers by KV heads. Needs matplotlib, the ``eval`` extra."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.files import replacing

# Shares below this are drawn as this: what is 0 has no place on a logarithmic scale.
_LEAST = 0.01
# In inches. Cells of less than the second have no room for their number.
_CELL, _CELL_WITH_NUMBER, _MARGIN = 0.42, 0.36, 1.6
_WIDEST, _HIGHEST = 15.0, 9.0
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def save_heat_map(
    shares: Sequence[Sequence[float | None]], path: Path, title: str, label: str
) -> None:
    """Draw into ``path`` how much each KV head has of an even share, on a logarithmic scale.

    Args:
        shares: by layer, of each of its KV heads, 1 for an even share; None for a layer with a
            sliding window, which has no part in a budget.
        path: of the picture, with a suffix that matplotlib knows.
        title: above it.
        label: of the scale.

    Raises:
        OVKVCrushError: it cannot be written; ``path`` is what it was.
    """
    # Without pyplot no backend is chosen, so that no display is looked for.
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    grid = np.full((max(map(len, shares)), len(shares)), np.nan)
    for number, layer in enumerate(shares):
        grid[: len(layer), number] = [np.nan if share is None else share for share in layer]
    grid = np.maximum(grid, _LEAST)
    told = grid[np.isfinite(grid)]
    # An even share stands at the same place of the scale where all are alike, too.
    least, most = min([0.5, *told]), max([2.0, *told])
    num_heads, num_layers = grid.shape
    width, height = min(_CELL, _WIDEST / num_layers), min(_CELL, _HIGHEST / num_heads)
    size = (max(6.0, width * num_layers + _MARGIN), max(2.2, height * num_heads + _MARGIN))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    image = axes.imshow(grid, norm=LogNorm(least, most), cmap="viridis", aspect="auto")
    layers, heads = (range(0, count, 1 if count <= 40 else 5) for count in (num_layers, num_heads))
    axes.set_xticks(layers, labels=[str(n) for n in layers], fontsize=8)
    axes.set_yticks(heads, labels=[str(n) for n in heads], fontsize=8)
    has_windows = any(share is None for layer in shares for share in layer)
    axes.set_xlabel("layer" + (" (grey: a sliding window, no budget)" if has_windows else ""))
    axes.set_ylabel("KV head")
    axes.set_title(title, fontsize=10, parse_math=False)
    if min(width, height) >= _CELL_WITH_NUMBER:
        middle = np.sqrt(least * most)
        for (head, column), share in np.ndenumerate(grid):
            if np.isfinite(share):
                text = f"{share:.2f}" if share < 1 else f"{share:.1f}"
                color = "white" if share < middle else "black"
                axes.text(column, head, text, ha="center", va="center", fontsize=7, color=color)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    ticks = [tick for tick in _TICKS if least <= tick <= most]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], fontsize=8)
    bar.ax.minorticks_off()
    bar.set_label(label, fontsize=8)
    try:
        with replacing(path) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of characters that the font lacks
            figure.savefig(stream, format=path.suffix[1:].lower(), dpi=150)
    except OSError as error:
        raise OVKVCrushError(f"cannot write {path}: {error.strerror}") from error
