"""KL over the KV cache's size as a picture. Needs matplotlib, the ``eval`` extra."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.evaluation.fidelity.results import Results


def save_fidelity_plot(results: Results, path: Path) -> None:
    """Draw a panel for each setting and in it one line a policy and precision into ``path``."""
    # Without pyplot no backend is chosen, so that no display is looked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(results.settings), 5), layout="constrained")
    panels = figure.subplots(1, len(results.settings), sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, results.settings, strict=True):
        lines: dict[str, list[tuple[float, float]]] = {}
        for configuration in results.measured(setting):
            kl = results.mean(setting, configuration, "kl")
            size = results.kv_bytes(setting, configuration)
            if kl is None or not size or (configuration.keep is None and not kl):
                continue
            precision = "/".join(configuration.precision or ())
            label = f"{configuration.policy} {precision}".strip()
            lines.setdefault(label, []).append((size / 1e6, 1000 * kl))
        for label, points in lines.items():
            sizes, heights = zip(*sorted(points), strict=True)
            axes.plot(sizes, heights, marker="o", label=label)
        axes.set_title(f"question {setting}" if setting != "reading" else setting)
        axes.set_xlabel("KV cache, mean [MB]")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("KL from the full cache's next token [nats × 1000]")
    panels[-1].legend()
    figure.suptitle(f"{len(results.prompts)} prompts")
    figure.savefig(path, dpi=150)
