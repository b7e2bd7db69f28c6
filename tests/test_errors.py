from __future__ import annotations

import pytest

from ov_kvcrush.errors import last_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Check 'a' failed at b.cpp:1\n  what helps  \n\n", "what helps"),
        ("one line", "one line"),
        ("\n", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_the_last_line_of_a_message_is_what_helps(message: str, line: str) -> None:
    assert last_line(RuntimeError(message)) == line
