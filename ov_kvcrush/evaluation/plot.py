"""Accuracy over the KV cache's size as a picture. Needs matplotlib, the ``eval`` extra."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.results import Outcome

_FORMATS = (".png", ".svg", ".pdf")


def require_plot(path: Path) -> None:
    """Refuse before anything runs a picture that could not be drawn in the end.

    Raises:
        ConfigError: matplotlib is missing, or ``path`` does not end like a picture.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed",
            'Install it: pip install "ov-kvcrush[eval]"',
        )
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(
            f"--plot {path} is not the name of a picture", f"Name it {' or '.join(_FORMATS)}."
        )


def save_plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw one line a policy and precision into ``path``; the first outcome is the full cache."""
    # Without pyplot no backend is chosen, so that no display is looked for.
    from matplotlib.figure import Figure

    full = outcomes[0]
    lines: dict[str, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        configuration = outcome.configuration
        precision = "/".join(configuration.precision or ())
        label = f"{configuration.policy} {precision}".strip()
        share = outcome.of_full(full) or 0.0
        lines.setdefault(label, []).append((outcome.mean_kv_bytes / 1e6, 100 * share))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for label, points in lines.items():
        sizes, shares = zip(*sorted(points), strict=True)
        axes.plot(sizes, shares, marker="o", label=label)
    axes.axhline(100, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("KV cache after the last question, mean [MB]")
    axes.set_ylabel("right answers, of the full cache's [%]")
    axes.set_title(f"{len(full.records)} conversations")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
