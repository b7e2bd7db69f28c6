"""Signals in a process in which libraries have come and gone."""

from __future__ import annotations

import ctypes
import sys

_DISABLE = 2  # SS_DISABLE


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def drop_signal_stack() -> None:
    """Handle signals of this thread on its ordinary stack.

    A CPU plugin that goes puts the signal stack back that it found, which may have gone before it.
    Ours never goes, but those of other libraries' cores do; the next signal that Python handles
    would end the process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _DISABLE, 0)), None)
