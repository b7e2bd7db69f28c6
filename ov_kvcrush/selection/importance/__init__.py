"""Importance methods: each gives every token of a cache a score, and the highest are kept."""

from __future__ import annotations

import dataclasses

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.selection.importance.attention import H2O, TOVA, PyramidKV, SnapKV
from ov_kvcrush.selection.importance.base import ImportanceMethod
from ov_kvcrush.selection.importance.controls import Random, StreamingLLM
from ov_kvcrush.selection.importance.keys import AdaptiveRKV, KeyDiff

__all__ = [
    "H2O",
    "IMPORTANCE_METHODS",
    "TOVA",
    "AdaptiveRKV",
    "ImportanceMethod",
    "KeyDiff",
    "PyramidKV",
    "Random",
    "SnapKV",
    "StreamingLLM",
    "make_importance",
]

IMPORTANCE_METHODS: dict[str, type[ImportanceMethod]] = {
    "snapkv": SnapKV,
    "pyramidkv": PyramidKV,
    "h2o": H2O,
    "tova": TOVA,
    "keydiff": KeyDiff,
    "rkv": AdaptiveRKV,
    "streaming": StreamingLLM,
    "random": Random,
}
"""By the names that configuration and command line use."""


def make_importance(name: str, **settings: int) -> ImportanceMethod:
    """The method called ``name``, with those of ``settings`` that it has.

    Raises:
        ConfigError: no such method, or a setting out of range.
    """
    if name not in IMPORTANCE_METHODS:
        raise ConfigError(
            f"importance {name!r} is not known", did_you_mean(name, IMPORTANCE_METHODS)
        )
    method = IMPORTANCE_METHODS[name]
    known = {field.name for field in dataclasses.fields(method)}
    return method(**{key: value for key, value in settings.items() if key in known})
