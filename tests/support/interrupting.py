"""Ctrl+C for this very process, sent when a test is where it has to be and never before.

One that comes too early ends the whole test run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

_PATIENCE = 60.0


def interrupt_when(condition: Callable[[], object]) -> threading.Thread:
    """Send SIGINT once ``condition`` holds, from a thread that has begun; never if it never does.

    Args:
        condition: asked every few milliseconds; false until the test expects KeyboardInterrupt.
    """

    def wait() -> None:
        ends = time.monotonic() + _PATIENCE
        while time.monotonic() < ends:
            if condition():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread
