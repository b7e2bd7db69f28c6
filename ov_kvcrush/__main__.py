"""The process ``ov-kvcrush``, also as ``python -m ov_kvcrush``."""

from __future__ import annotations

import gc
import signal

_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def main() -> None:
    """Entry point of the ``ov-kvcrush`` script."""
    # While the command is imported Ctrl+C just ends the process: nothing has begun, and where an
    # import was broken off is nothing to show.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What is imported stays: looking through it every 700 objects takes a tenth of a start.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    from ov_kvcrush.cli import main as run

    run()


if __name__ == "__main__":  # child processes import this module again
    main()
