"""The process as the shell started it: its streams, its arguments, its variables, its folder."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, OVKVCrushError, PromptError
from ov_kvcrush.files import read_text

STDIN = "-"
"""In place of a file or a text: what is piped in."""

EXIT_READER_GONE = 128 + signal.SIGPIPE

# More than any model's context; what never ends (/dev/zero) is not read into all memory.
_MOST_CHARACTERS = 2**28
# Libraries read these when they are imported, and fail on what is not a number above 0.
_COUNTS = ("NUMBA_NUM_THREADS", "TERMINAL_WIDTH")


class _Stdout(io.FileIO):
    """Stdout: who may not write to it is told so, and who reads no more ends the command."""

    _failed = False

    def write(self, data: Any) -> int:
        """Write as :meth:`io.FileIO.write`; once it has failed, nowhere.

        Raises:
            SystemExit: the reader has gone: what SIGPIPE does, but as an exception, so that
                commands save and clean up.
            OVKVCrushError: the disk is full, or stdout is closed.
        """
        if self._failed:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            self._failed = True
            raise SystemExit(EXIT_READER_GONE) from None
        except OSError as error:
            self._failed = True
            raise OVKVCrushError(
                f"cannot write to stdout: {error.strerror}", "Send it to a file with room for it."
            ) from error


class _Stderr(io.FileIO):
    """Stderr: what cannot be said there does not end what it was said about."""

    def write(self, data: Any) -> int:
        """Write as :meth:`io.FileIO.write`, or nowhere."""
        with suppress(OSError):
            return super().write(data)
        return len(data)


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, however the shell has left them.

    Piped text is UTF-8 whatever the locale says, and a character that stdout's encoding does not
    have is written as an escape: no answer is lost for it.
    """
    # Or the next file that is opened becomes stdout.
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # to read only as stdout: writing to it fails, as it should
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  for as long as it runs
    elif isinstance(sys.stdin, io.TextIOWrapper):
        encoding = sys.stdin.encoding if sys.stdin.isatty() else "utf-8"
        sys.stdin.reconfigure(encoding=encoding, errors="strict")
    sys.stdout = _writer(_Stdout(1, "w", closefd=False), sys.stdout)
    sys.stderr = _writer(_Stderr(2, "w", closefd=False), sys.stderr)


def _writer(raw: io.FileIO, replaced: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(replaced, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )


def read_stdin() -> str:
    """All text of stdin.

    Raises:
        PromptError: it is not UTF-8, too long for any model, or cannot be read.
    """
    try:
        text = sys.stdin.read(_MOST_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise PromptError("what is piped in is not text in UTF-8") from error
    except OSError as error:
        raise PromptError(f"stdin cannot be read: {error.strerror or error}") from error
    if len(text) > _MOST_CHARACTERS:
        raise PromptError(f"more than {_MOST_CHARACTERS:,} characters are piped in", "Split them.")
    return text


def read_document(name: str) -> str:
    """The text of the file called ``name``, or of stdin, without what is blank around it.

    Raises:
        OVKVCrushError: it cannot be read, is empty, or is not UTF-8.
    """
    text = (read_stdin() if name == STDIN else read_text(Path(name))).strip()
    if not text:
        raise PromptError(f"{describe_document(name)} is empty", "Give a text to read.")
    return text


def describe_document(name: str) -> str:
    """What messages call it."""
    return "what is piped in" if name == STDIN else name


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not text: models, tokenizers and JSON take none of them.

    Raises:
        ConfigError: one is not UTF-8.
    """
    for text in arguments:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"the argument {text!r} is not text in UTF-8",
                "Give it in UTF-8, in a locale that has it, such as LC_ALL=C.UTF-8.",
            ) from None


def check_environment(variables: MutableMapping[str, str] = os.environ) -> None:
    """Refuse variables that libraries fail on, without a word of which one it was.

    One that is empty is removed: that is what was meant.

    Raises:
        ConfigError: one is not a number above 0.
    """
    for name in _COUNTS:
        value = variables.get(name)
        if value == "":
            del variables[name]
        elif value is not None and not (value.isdecimal() and int(value) > 0):
            raise ConfigError(
                f"the environment variable {name} is {value!r}, not a number above 0",
                f"Set it to one, or: unset {name}",
            )


def is_folder_gone() -> bool:
    """Whether the current folder was deleted: no relative path means anything then."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False
