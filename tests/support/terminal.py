"""A process at a pseudo-terminal, typed at and read like a person would."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import subprocess
import sys
import time
from types import TracebackType

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_MARKING = re.compile(r"\x1b\[\?2004([hl])")
_TIMEOUT = 60.0


class Terminal:
    """``ov-kvcrush`` with ``arguments`` at a terminal of its own, which signals Ctrl+C to it."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        # A session's leader gets the terminal it opens first as its controlling one.
        open_terminal = 'exec "$@" <"$TTY" >"$TTY" 2>&1'
        self._process = subprocess.Popen(
            ["sh", "-c", open_terminal, "-", sys.executable, "-m", "ov_kvcrush", *arguments],
            env={**os.environ, "TTY": os.ttyname(theirs), "TERM": "xterm", "COLUMNS": "200"},
            start_new_session=True,
        )
        self._theirs = theirs
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unread = ""
        self._marks_pastes = False

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def type(self, text: str) -> None:
        """Press the keys of ``text``."""
        os.write(self._ours, text.encode())

    def read_until(self, pattern: str) -> str:
        """What appears up to and with ``pattern``, without escape sequences and returns."""
        deadline = time.monotonic() + _TIMEOUT
        while (match := re.search(pattern, self._unread)) is None:
            if not self._read(max(0.0, deadline - time.monotonic())):
                raise AssertionError(f"no {pattern!r} in: {self._unread!r}")
        seen, self._unread = self._unread[: match.end()], self._unread[match.end() :]
        return seen

    def say(self, line: str) -> str:
        """Type ``line`` at the prompt; what appears until the next prompt."""
        self.type(f"{line}\n")
        return self.read_until(r"\n> ")

    def paste(self, text: str) -> None:
        """Paste ``text``: between marks if what was read last has asked for them."""
        returns = text.replace("\n", "\r")
        self.type(f"\x1b[200~{returns}\x1b[201~" if self._marks_pastes else returns)

    def press_ctrl_c_at_prompt(self) -> None:
        """Press Ctrl+C as late as a person would.

        Between showing a prompt and waiting for keys, CPython misses a signal until the next key.
        """
        time.sleep(0.5)
        self.type(CTRL_C)

    def leave_by_ctrl_c(self) -> int:
        """Press Ctrl+C twice within a second, and again where the machine is too slow for that."""
        deadline = time.monotonic() + _TIMEOUT
        while self._process.poll() is None:
            assert time.monotonic() < deadline, "it has not ended"
            self.press_ctrl_c_at_prompt()
            self._unread = ""
            while self._process.poll() is None and not self._unread.endswith("> "):
                self._read(0.1)
        return self.wait()

    def signal(self, number: int) -> None:
        """Send the process a signal, as late as a person would (see above)."""
        time.sleep(0.5)
        self._process.send_signal(number)

    def _read(self, seconds: float) -> bool:
        """Read what appears; whether something has within ``seconds``."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        appeared = self._decoder.decode(os.read(self._ours, 65536))
        if asked := _MARKING.findall(appeared):
            self._marks_pastes = asked[-1] == "h"
        self._unread += appeared
        self._unread = _ESCAPES.sub("", self._unread).replace("\r", "")
        return True

    def wait(self) -> int:
        """The exit code."""
        return self._process.wait(_TIMEOUT)
