"""Which releases of the server a graph can be written for."""

from __future__ import annotations

import pytest

from ov_kvcrush.errors import ConfigError, UnsupportedError
from ov_kvcrush.ovms.release import NEWEST, Release


@pytest.mark.parametrize(
    ("text", "has_contexts"),
    [
        ("2025.4", False),
        ("2026.1", False),
        ("v2026.2", True),
        ("2026.2.1", True),
        ("2026.10", True),
    ],
)
def test_execution_contexts_are_known_from_2026_2_on(text: str, has_contexts: bool) -> None:
    assert Release.parse(text).has_execution_contexts == has_contexts
    assert NEWEST.has_execution_contexts


@pytest.mark.parametrize("text", ["", "new", "26.1", "2026", "2026.x"])
def test_what_is_not_a_release_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a release"):
        Release.parse(text)


def test_a_release_without_kvcrush_in_its_graphs_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"2025\.3 has no setting for KVCrush"):
        Release.parse("2025.3")
