"""Libraries that metrics are computed with: parts of the ``eval`` extra, which may be missing."""

from __future__ import annotations

from importlib.util import find_spec

from ov_kvcrush.errors import ConfigError


def require_library(library: str, metric: str) -> None:
    """Refuse ``metric`` where ``library`` is missing.

    Raises:
        ConfigError: it is missing.
    """
    if find_spec(library) is None:
        raise ConfigError(
            f"the metric {metric} needs {library}, which is not installed",
            'Install it: pip install "ov-kvcrush[eval]"',
        )
