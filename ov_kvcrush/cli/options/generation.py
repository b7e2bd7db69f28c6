"""The generation flags, named after the fields of ``GenerationConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from ov_kvcrush.cli.options.flags import optional, with_flags

# Read without openvino_genai, which takes a second to import: --help and mistakes answer at once.
FLAGS: dict[str, tuple[type, str]] = {
    "max_new_tokens": (int, "Longest answer in tokens."),
    "min_new_tokens": (int, "Shortest answer in tokens."),
    "do_sample": (bool, "Draw tokens instead of taking the likeliest; on with the next four."),
    "temperature": (
        float,
        "Above 1 flattens the distribution, below 1 sharpens it; 0 takes the likeliest.",
    ),
    "top_k": (int, "Draw from the k likeliest tokens."),
    "top_p": (float, "Draw from the likeliest tokens that add up to this probability."),
    "min_p": (float, "Draw from tokens this likely relative to the likeliest."),
    "rng_seed": (int, "Seed of the draws; another one for each answer if not given."),
    "repetition_penalty": (float, "Above 1 makes tokens seen before less likely."),
    "presence_penalty": (float, "Subtracted from tokens generated before."),
    "frequency_penalty": (float, "Subtracted for each time a token was generated."),
    "stop_strings": (list[str], "End the answer where this text appears; repeatable."),
    "ignore_eos": (bool, "Go on past the end-of-sequence token."),
}

_SAMPLING = frozenset({"temperature", "top_k", "top_p", "min_p"})


def imply_sampling(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes``, with ``do_sample`` on where one of them shapes the draw and it is not given.

    A temperature of 0 is the limit in which the likeliest token is always drawn: ``do_sample`` off.
    """
    if changes.get("temperature") == 0 and not changes.get("do_sample"):
        return {**changes, "do_sample": False}
    if "do_sample" not in changes and not _SAMPLING.isdisjoint(changes):
        return {**changes, "do_sample": True}
    return dict(changes)


def _declare_flag(name: str, kind: type, help_text: str) -> Any:
    flag = "--" + name.replace("_", "-")
    spelled = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    metavar = "TEXT" if name == "stop_strings" else None
    return optional(
        kind,
        typer.Option(
            spelled,
            help=help_text,
            metavar=metavar,
            rich_help_panel="Generation",
            show_default=False,
        ),
    )


generation_options = with_flags(
    "generation",
    {name: _declare_flag(name, kind, text) for name, (kind, text) in FLAGS.items()},
    imply_sampling,
    {name: "--" + name.replace("_", "-") for name in FLAGS},
)
"""Decorates a command that takes ``generation``: its command line gets these flags."""
