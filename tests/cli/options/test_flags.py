"""Python's names of settings, as the command line spells them."""

from __future__ import annotations

import pytest

from ov_kvcrush.cli.options.flags import spell_flags

SPELLING = {
    "max_cache_size": "--max-cache-size",
    "prefix_caching": "--prefix-caching",
    "granularity": "--granularity",
    "engine": "--engine",
    "seed": "--selection-seed",
}


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("max_cache_size 8 is too small", "--max-cache-size 8 is too small"),
        ("Give more than max_cache_size.", "Give more than --max-cache-size."),
        (
            "Set max_cache_size=256, granularity='page'.",
            "Set --max-cache-size 256, --granularity page.",
        ),
        (
            "or prefix_caching=False, prefix_caching=True",
            "or --no-prefix-caching, --prefix-caching",
        ),
        ("granularity 'token' (it does not)", "--granularity 'token' (it does not)"),
        ("use the paged engine (engine='paged')", "use the paged engine (--engine paged)"),
        ("the seed 3 and a seed", "the --selection-seed 3 and a seed"),
        (
            "Add --max-cache-size TOKENS: a_max_cache_size",
            "Add --max-cache-size TOKENS: a_max_cache_size",
        ),
    ],
)
def test_names_become_flags(python: str, shell: str) -> None:
    assert spell_flags(python, SPELLING) == shell
