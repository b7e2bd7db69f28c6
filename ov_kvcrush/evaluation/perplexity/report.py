"""Perplexity for people as tables, and for programs as JSON values."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ov_kvcrush.evaluation.perplexity.results import PerplexityResults
from ov_kvcrush.evaluation.report import identity
from ov_kvcrush.evaluation.stats import Difference, paired_mean_difference


def perplexity_table(results: PerplexityResults) -> Table:
    """Perplexity and sizes by configuration; the first is the full cache."""
    table = Table(
        title=f"Perplexity of {len(results.passages)} passages",
        caption="kept: tokens that a KV head holds at the end; KV MB: of the cache then.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("cache")
    for name in ("perplexity", "nats a token", "kept", "KV MB"):
        table.add_column(name, justify="right")
    for configuration in results.configurations:
        nats = results.nats(configuration)
        table.add_row(
            configuration.name,
            f"{results.perplexity(configuration):,.3f}",
            f"{sum(nats) / len(nats):.4f}",
            f"{results.kept(configuration):,.0f}",
            f"{results.kv_bytes(configuration) / 1e6:,.2f}",
        )
    return table


def perplexity_difference_table(results: PerplexityResults, policy: str) -> Table:
    """Differences to ``policy``, with 95 % intervals."""
    table = Table(
        title=f"Difference to {policy} in nats a token × 1000 [95 % interval]",
        title_justify="left",
    )
    table.add_column("cache")
    table.add_column("difference", justify="right")
    for ours, theirs in results.pairs(policy):
        found = paired_mean_difference(results.nats(ours), results.nats(theirs))
        table.add_row(ours.name, _interval(found))
    return table


def perplexity_summary(
    results: PerplexityResults, compare: str | None = None, with_passages: bool = False
) -> dict[str, Any]:
    """All figures as JSON values; differences are in nats a token.

    Args:
        results: of the passages that were finished.
        compare: policy to which differences are given.
        with_passages: every passage's figures too.
    """
    body: dict[str, Any] = {
        "num_passages": len(results.passages),
        "configurations": [
            {
                **identity(configuration),
                "perplexity": results.perplexity(configuration),
                "kept": results.kept(configuration),
                "kv_bytes": results.kv_bytes(configuration),
            }
            for configuration in results.configurations
        ],
    }
    if compare is not None:
        body["differences"] = [
            {**identity(ours), "to": theirs.name, "nats": found and found.to_dict()}
            for ours, theirs in results.pairs(compare)
            for found in [paired_mean_difference(results.nats(ours), results.nats(theirs))]
        ]
    if with_passages:
        body["passages"] = [passage.to_dict() for passage in results.passages]
    return body


def _interval(found: Difference | None) -> str:
    if found is None:
        return "–"
    return f"{1e3 * found.points:+.1f} [{1e3 * found.low:+.1f}, {1e3 * found.high:+.1f}]"
