"""The first of several strings in a text that comes piece by piece, whatever the pieces are."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Match(NamedTuple):
    """Where a string is in a text, in characters.

    Attributes:
        begin: of its first character.
        end: behind its last one.
    """

    begin: int
    end: int


class StopStrings:
    """Looks for the string that begins first in a text; of several there, the shortest.

    A string that is complete is the first one only when no other that began before it can still
    become complete: the search goes on so long.

    Args:
        strings: none empty.

    Attributes:
        match: the first string, once it is certain; nothing behind it is looked at.
    """

    def __init__(self, strings: Collection[str]) -> None:
        self.match: Match | None = None
        self._searches = [_Search(string) for string in strings]
        self._length = 0
        self._first: Match | None = None

    @property
    def unsettled_from(self) -> int:
        """Characters of the text before what is, or may become, one of the strings."""
        begins = [self._length - search.matched for search in self._searches]
        if self._first is not None:
            begins.append(self._first.begin)
        return min(begins)

    def push(self, text: str) -> Match | None:
        """Look through what the text goes on with; :attr:`match` then."""
        for character in text:
            if self.match is not None:
                break
            self._length += 1
            for search in self._searches:
                if search.advance(character):
                    found = Match(self._length - len(search.string), self._length)
                    self._first = min(self._first or found, found)
            if self._first is not None and self.unsettled_from == self._first.begin:
                self.match = self._first
        return self.match

    def end(self) -> Match | None:
        """The first string, given that no text follows."""
        self.match = self._first
        return self.match


class _Search:
    """How much of ``string`` the text so far ends with (Knuth, Morris and Pratt 1977).

    Attributes:
        matched: characters of the longest beginning of ``string`` that the text ends with.
    """

    def __init__(self, string: str) -> None:
        self.string = string
        self.matched = 0
        # Of each beginning, the longest shorter one that it ends with.
        self._shorter = [0]
        for character in string[1:]:
            length = self._shorter[-1]
            while length and string[length] != character:
                length = self._shorter[length - 1]
            self._shorter.append(length + (string[length] == character))

    def advance(self, character: str) -> bool:
        """Take the next character of the text; whether it completes ``string``."""
        if self.matched == len(self.string):
            self.matched = self._shorter[-1]
        while self.matched and self.string[self.matched] != character:
            self.matched = self._shorter[self.matched - 1]
        self.matched += self.string[self.matched] == character
        return self.matched == len(self.string)
