"""The server's log: lines on stderr, each with its time."""

from __future__ import annotations

import logging
import sys


def log_to_stderr() -> None:
    """Have what this package and uvicorn say stand on stderr, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    for name, level in (("ov_kvcrush", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
