"""The folder that idle chats are kept in: made, or refused, before a model is loaded for it."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.errors import ConfigError, UnsupportedError


def make_chat_folder(folder: Path, engine: str) -> None:
    """Make ``folder`` where it is not there, for its owner alone.

    Args:
        folder: for the files of chats.
        engine: whose chats they are.

    Raises:
        UnsupportedError: ``engine`` keeps no caches.
        ConfigError: the folder cannot be made.
    """
    if engine == "genai":
        raise UnsupportedError(
            "the genai engine keeps no cache that could be saved",
            "Leave --session-dir out, or use the paged engine.",
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be a folder for chats: {error.strerror}", "Give another one."
        ) from error
