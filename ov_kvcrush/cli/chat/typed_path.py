"""File names as people type them: with spaces, quotes, backslashes and ``~``."""

from __future__ import annotations

import io
import os
import shlex
from pathlib import Path

from ov_kvcrush.errors import OVKVCrushError


def read_path(text: str) -> Path:
    """The file that ``text`` names, quoted as in a shell or just as it is.

    Raises:
        OVKVCrushError: no file can have that name.
    """
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe, say
        return _expanded(text)
    is_quoted = len(words) == 1 and not os.path.lexists(_expanded(text))
    return _expanded(words[0] if is_quoted else text)


def read_path_and_rest(text: str) -> tuple[Path, str]:
    """The file that ``text`` begins with, and what comes behind it.

    All of ``text`` is a name if there is such a file; else a name ends where it would in a shell.

    Raises:
        OVKVCrushError: a quote is not closed, or no file can have that name.
    """
    if os.path.isfile(whole := _expanded(text)):
        return whole, ""
    unread = io.StringIO(text)
    lexer = shlex.shlex(unread, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        name = lexer.get_token() or ""
    except ValueError:
        raise OVKVCrushError(
            "a quote is not closed", "Put a name with spaces between two quotes."
        ) from None
    return _expanded(name), unread.read().strip()


def _expanded(name: str) -> Path:
    if "\0" in name:
        raise OVKVCrushError("a file name cannot hold a null character")
    # Path.expanduser raises where there is no such user.
    return Path(os.path.expanduser(name))
