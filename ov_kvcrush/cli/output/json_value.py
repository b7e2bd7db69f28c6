"""A JSON value on stdout."""

from __future__ import annotations

import io
import json
import sys
from typing import Any


def print_json(value: Any, indent: int | None = None) -> None:
    """Print ``value`` as JSON on stdout: in UTF-8, as JSON is, whatever the locale says."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print(json.dumps(value, ensure_ascii=False, indent=indent))
