"""Settings of the KV cache behind a name, as a command line has them: ``NAME:FIELD=VALUE,...``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.files import parse_json


def read_settings(
    what: str, text: str, base: Mapping[str, Any], shared: Mapping[str, str]
) -> dict[str, Any]:
    """Fields of ``KVCacheConfig`` that ``text`` gives behind its colon, over those of ``base``.

    Args:
        what: is named, such as ``policy``; ``--policy`` is its flag.
        text: such as ``default:representative_share=0.75,window_size=32``. Values are JSON, or text
            that needs no quotes.
        base: settings that the name stands for.
        shared: fields that are alike for all that are compared, and the flag that gives each; empty
            where none does.

    Raises:
        ConfigError: a part is not ``FIELD=VALUE``, a shared field, or as ``KVCacheConfig``.
    """
    name, _, settings = text.partition(":")
    given = dict(base)
    # A comma also stands between the numbers of layer_budgets.
    for part in re.split(r",(?=[a-z_]+=)", settings):
        field, equals, value = part.partition("=")
        if not (field and equals and value):
            raise ConfigError(
                f"{what} {text!r}: {part!r} is not FIELD=VALUE",
                f"For instance: --{what} {name}:representative_share=0.75,window_size=32",
            )
        if field in shared:
            flag = shared[field]
            raise ConfigError(
                f"{what} {text!r}: {field} is the same for all that are compared",
                f"Give it with {flag}." if flag else "Leave it out.",
            )
        given[field] = _parse_value(value)
    try:
        KVCacheConfig.from_dict(given)
    except ConfigError as error:
        raise ConfigError(f"{what} {text!r}: {error.message}", error.hint) from error
    return given


def _parse_value(text: str) -> Any:
    for candidate in (text, f"[{text}]"):
        try:
            return parse_json(candidate)
        except ValueError:
            continue
    return text
