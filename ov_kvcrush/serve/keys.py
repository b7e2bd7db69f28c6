"""API keys: where they come from, and whose a request's is. Kept as SHA-256 alone."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.files import read_text

KEY_VARIABLE = "OV_KVCRUSH_API_KEY"
"""Environment variable with one key."""

DEFAULT_NAME = "default"
"""Of that one."""

# Printable ASCII; a key without a name has no colon.
_LINE = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64}):(?P<key>[!-~]+)|(?P<bare>[!-9;-~]+)")


def read_keys(path: Path | None, variables: Mapping[str, str]) -> dict[bytes, str]:
    """Name of each key by the key's SHA-256.

    Args:
        path: a file with one ``name:key`` or ``key`` a line; blank lines and those that begin with
            ``#`` do not count. A key without a name gets one of its digest.
        variables: the environment's.

    Raises:
        ConfigError: the file cannot be read, or a line of it is neither.
    """
    keys: dict[bytes, str] = {}
    if path is not None:
        lines = read_text(path).splitlines()
        for number, line in enumerate(map(str.strip, lines), 1):
            if line and not line.startswith("#"):
                _add(keys, line, f"line {number} of {path}")
        if not keys:
            raise ConfigError(f"{path} has no API key", "Write one to a line: name:key")
    if given := variables.get(KEY_VARIABLE, "").strip():
        _add(keys, f"{DEFAULT_NAME}:{given}", f"the environment variable {KEY_VARIABLE}")
    return keys


def owner_of(key: str | None, keys: Mapping[bytes, str]) -> str | None:
    """Name of ``key``; None where nobody has it. Takes as long for any key.

    Args:
        key: as a request has it; None is none.
        keys: as :func:`read_keys` has them.
    """
    digest = _digest(key or "")
    owner = None
    for known, name in keys.items():
        if hmac.compare_digest(known, digest):
            owner = name
    return owner


def bearer(authorization: str | None) -> str | None:
    """The key in an ``Authorization`` header; None where it has none."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _add(keys: dict[bytes, str], text: str, where: str) -> None:
    match = _LINE.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{where} is not an API key",
            "Write name:key or key, of printable ASCII characters without blanks.",
        )
    digest = _digest(match["key"] or match["bare"])
    # What is kept belongs to the name, so that has to stay the same when lines come and go.
    keys[digest] = match["name"] or f"key-{digest.hex()[:8]}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
