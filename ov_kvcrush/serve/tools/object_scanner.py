"""Where a JSON object that comes in pieces ends."""

from __future__ import annotations

_OPENING, _CLOSING = "{[", "}]"


class ObjectScanner:
    """Follows a JSON object (RFC 8259) from its opening brace; what is in it is not checked.

    Attributes:
        has_ended: its last brace was there.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._depth = 0
        self._is_in_text = False
        self._is_escaped = False

    def feed(self, text: str) -> int:
        """How many characters of ``text``, which comes next, belong to the object."""
        for place, character in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_in_text:
                self._is_escaped = character == "\\"
                self._is_in_text = character != '"'
            elif character == '"':
                self._is_in_text = True
            elif character in _OPENING:
                self._depth += 1
            elif character in _CLOSING:
                self._depth -= 1
                if not self._depth:
                    self.has_ended = True
                    return place + 1
        return len(text)
