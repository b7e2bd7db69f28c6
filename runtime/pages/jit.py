"""Loops that Numba compiles, and where it keeps what it has compiled."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("ov_kvcrush")

# Loops that call one another, each of which may fail to be kept.
_MOST_FAILURES = 20

# NaN and infinity keep their meaning; sums may be reordered into vector code. Divisions do as
# NumPy's: Python's check for zero would keep every loop with one from becoming vector code.
_compiled = partial(
    numba.njit,
    nogil=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)


def jit(function: F) -> F:
    """``function``, compiled when it is first called, with what was compiled kept for next time.

    Numba keeps it beside the source or in the user's cache folder (``NUMBA_CACHE_DIR`` goes first).
    Where it may write to neither, it is kept in a temporary folder of the user's own, else nowhere.
    """
    try:
        return cast(F, _compiled(cache=True)(function))
    except RuntimeError:
        pass  # Numba has found no place for it
    folder = private_folder(Path(tempfile.gettempdir()))
    if folder is not None:
        with _kept_in(folder):
            try:
                return cast(F, _compiled(cache=True)(function))
            except RuntimeError:
                pass
    return cast(F, _compiled()(function))


def times_compiled(loop: Callable[..., Any]) -> int:
    """How often ``loop`` has been compiled in this process, instead of found where it was kept."""
    return sum(cast(Any, loop).stats.cache_misses.values())


def compile_by_call(loop: Callable[..., Any], *arguments: Any, told: str = "") -> None:
    """Call ``loop``, which compiles it, whether or not there is room to keep what was compiled.

    Args:
        loop: made by :func:`jit`, where something is to be told.
        arguments: of it.
        told: in the log, where it was not found where it is kept.
    """
    before = times_compiled(loop) if told else 0
    for _ in range(_MOST_FAILURES):
        try:
            loop(*arguments)
            break
        except OSError as error:  # the disk is full, for instance; it has been compiled
            _log.info("compiled loops cannot be kept: %s", error)
    else:
        loop(*arguments)
    if told and times_compiled(loop) > before:
        _log.warning(told)


def private_folder(parent: Path) -> Path | None:
    """A folder in ``parent`` that only this user can write to; None where it cannot be had.

    Numba runs what it finds there: a folder that somebody else has prepared must not be taken.
    """
    folder = parent / f"ov-kvcrush-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if is_own and not found.st_mode & 0o077 else None


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    # Numba asks for it when a function is decorated.
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
