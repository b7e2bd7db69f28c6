"""Texts of models and data as people can be shown them: nothing acts, nothing is endless."""

from __future__ import annotations

import re

# Control characters but the line's end and the tab, halves of characters, what is never a
# character, and what turns the direction of all text behind it.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)

_LONGEST_NAME = 80


def printable(text: str) -> str:
    """``text`` with each character that is not to be seen spelled out, such as ``\\x1b``."""
    return _UNSHOWABLE.sub(lambda match: _spelled(ord(match[0])), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Printable ``text`` with single spaces for all white space."""
    return " ".join(printable(text).split())


def shortened(text: str, length: int) -> str:
    """Printable ``text``; of more than ``length`` characters, its beginning and its end."""
    # First cut: what is spelled out becomes longer, and a text may have any length.
    if len(text) <= length:
        return printable(text)
    end = length // 3
    begin = length - end
    left_out = len(text) - begin - end
    return f"{printable(text[:begin])} […{left_out:,} characters…] {printable(text[-end:])}"


def short_name(text: str) -> str:
    """``text`` in one line, of about 80 characters at most."""
    return shortened(one_line(text), _LONGEST_NAME)


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
