"""Where the repository's own files are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDLE = ROOT / "samples" / "models" / "needle"
"""The trained small model of the repository; its tokenizer serves all random models too."""
