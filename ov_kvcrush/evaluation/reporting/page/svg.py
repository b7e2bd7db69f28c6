"""Pictures as SVG inside a page: they take its colours, light or dark, and its font."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#101112"
MUTED = "#707172"
RULE = "#d0d1d2"
PAPER = "#fdfcfb"
# Told apart with any kind of colour blindness: Okabe and Ito (2008) without yellow and black, and
# two of Tol's muted colours.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933")

# What is drawn in these is shown in the page's own, which a dark one has too.
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES)
}
_COLOUR = re.compile("|".join(_VARIABLES))
_WIDTH = 380 / 72
"""Inches: as wide as a narrow window, so that texts can be read there; a wide one enlarges it."""


@contextmanager
def picture(name: str, height: float) -> Iterator[Figure]:
    """A figure to draw into, in the page's style.

    Args:
        name: of the picture, another one for each of a page.
        height: in inches.
    """
    # Without pyplot no backend is chosen, so that no display is looked for.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Its keys are typed as names that not every release has.
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        # Names inside a picture are made of it: two pictures of a page must not share them.
        "svg.hashsalt": name,
        "font.size": 9.5,
        "legend.fontsize": 9,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.color": MUTED,
        "ytick.labelcolor": INK,
        "grid.color": RULE,
        "grid.linewidth": 0.7,
        "hatch.linewidth": 0.9,
        "legend.frameon": False,
        "figure.facecolor": "none",
    }
    with rc_context(settings):
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def to_svg(figure: Figure, description: str) -> Markup:
    """``figure`` as an SVG element; call it inside the ``with`` of :func:`picture`.

    Args:
        figure: drawn.
        description: what is seen, for those who do not see it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.DOTALL)
    # Names of groups are the same in every picture; nothing refers to them.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = _COLOUR.sub(lambda match: f"var({_VARIABLES[match[0]]})", svg)
    attributes, _, content = svg[svg.index("<svg") :].partition(">")
    attributes = re.sub(r'\s(width|height|version)="[^"]*"', "", attributes)
    return Markup(f'{attributes} role="img" aria-label="{escape(description)}">{content}')


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, both above 0; these two where there are too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) > 1 else [low, high]
