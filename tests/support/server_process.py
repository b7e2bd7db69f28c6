"""``ov-kvcrush serve`` as it is used: a process of its own, with signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_URL = re.compile(r"loading (\S+); it will be at (http://\S+)/v1\n")


class ServerProcess:
    """A running command.

    Attributes:
        url: that it listens at.
        model: what it calls its model.
        said: lines on its stderr that have been read.
    """

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ov_kvcrush", "serve", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.said: list[str] = []
        match = _URL.search(self._read_until(" will be at "))
        assert match, self.said
        self.model, self.url = match[1], match[2]

    @property
    def pid(self) -> int:
        """Of the command."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for the model."""
        self._read_until(" ready\n")

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait_until_ending(self) -> None:
        """Wait until it has taken the signal."""
        self._read_until(" ending: ")

    def end(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended."""
        _, rest = self._process.communicate(timeout=seconds)
        self.said += rest.splitlines(keepends=True)
        return self._process.returncode

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _read_until(self, part: str) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)
            if part in line:
                return line
        raise AssertionError(f"{part!r} was not said, but {''.join(self.said)}")


@contextmanager
def server_process(
    model: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server of ``model`` on a free port, killed at the end of the block if it still runs."""
    process = ServerProcess([str(model), "--port", "0", *arguments], environment or {})
    try:
        yield process
    finally:
        process.kill()
