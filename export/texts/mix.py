"""What a gate and layer shares are measured on: prose and code, or texts of the user's own first.

A gate learns what texts like these look back at, so they have to look like what will be read. The
package has novels and its own Python sources, three passages to one. Texts of the user's own come
before them, and they fill up what is left to be measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.texts.own_code import read_own_code
from ov_kvcrush.export.texts.text_file import read_documents
from ov_kvcrush.export.texts.texts import OWN_PROSE, Text

Tokenize = Callable[[str], list[int]]

LEAST_CHARACTERS = 1000
"""Shorter texts of the user's own tell nothing."""

_NOVELS = Path(__file__).parent / "novels.txt"
_WHAT_IT_TAKES = "--texts takes text files, source code, or .jsonl files of texts."
# Which source each passage is from, over and over: three of prose to one of code.
_PROSE, _CODE = 0, 1
_MIX = (_PROSE, _PROSE, _CODE, _PROSE)
# Of one file and of all code: more than are ever measured.
_MOST_PASSAGES = 100
# A passage of 1,000 tokens has rarely more.
_PASSAGE_CHARACTERS = 8000


@dataclass(frozen=True)
class CalibrationTexts:
    """Texts to measure on.

    Attributes:
        given: the user's own, by file.
        prose, code: the package's own.
    """

    given: tuple[Text, ...]
    prose: tuple[Text, ...]
    code: tuple[Text, ...]

    @property
    def first(self) -> Text:
        """The user's texts as one; the package's own first text where there are none."""
        if not self.given:
            return self.prose[0]
        origin = {"source": ", ".join(str(text.origin["source"]) for text in self.given)}
        content = "\n\n".join(text.content for text in self.given)
        return Text(content, origin | {"sha256": _digest(content)})

    @property
    def origins(self) -> tuple[dict[str, Any], ...]:
        """Where they come from, as JSON values: files by name and digest, the package's by kind."""
        own = [
            {"source": "ov-kvcrush", "kind": kind, "sha256": _digest(*(t.content for t in texts))}
            for kind, texts in (("prose", self.prose), ("code", self.code))
        ]
        return (*(text.origin for text in self.given), *own)

    def passages(self, tokenize: Tokenize, length: int, most: int) -> list[list[int]]:
        """At most ``most`` passages of ``length`` tokens, no two with a token of a text in common.

        The user's come first, then prose and code by turns, so that the first few are a fair sample
        of all. The same ones every time.
        """
        given = _shuffled(_cut(self.given, tokenize, length))
        if len(given) >= most:
            return given[:most]
        prose = iter(_shuffled(_cut(self.prose, tokenize, length)))
        code = iter(_shuffled(_cut(self.code, tokenize, length, one_each=True)))
        turns = (next((prose, code)[source], None) for source in cycle(_MIX))
        mixed = (passage for passage in iter(lambda: next(turns), None))
        return list(islice(chain(given, mixed), most))


def find_texts(files: Sequence[str] = ()) -> CalibrationTexts:
    """The package's own texts, and before them those in ``files``.

    Raises:
        ConfigError: a file cannot be read, or all of them hold too little text.
    """
    given = []
    for name in files:
        content = "\n\n".join(read_documents(name, _WHAT_IT_TAKES))
        digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        given.append(Text(content, {"source": name, "sha256": digest}))
    length = sum(len(text.content) for text in given)
    if given and length < LEAST_CHARACTERS:
        raise ConfigError(
            f"the text to measure on has {length:,} characters, and at least "
            f"{LEAST_CHARACTERS:,} are needed",
            "Give a longer one with --texts, or leave it out for the package's own.",
        )
    prose = tuple(_own("prose", path.read_text(encoding="utf-8")) for path in (OWN_PROSE, _NOVELS))
    code = tuple(_own("code", text[:_PASSAGE_CHARACTERS]) for text in read_own_code(_MOST_PASSAGES))
    return CalibrationTexts(tuple(given), prose, code)


def _own(kind: str, content: str) -> Text:
    return Text(content, {"source": "ov-kvcrush", "kind": kind, "sha256": _digest(content)})


def _cut(
    texts: Sequence[Text], tokenize: Tokenize, length: int, one_each: bool = False
) -> list[list[int]]:
    """Passages of ``texts``, none of two of them; the last of a text may be half as long.

    Args:
        texts: to be cut, each at most ``_MOST_PASSAGES`` times.
        tokenize: gives a text's tokens.
        length: tokens of a passage.
        one_each: takes the beginning of each text alone.
    """
    passages = []
    for text in texts:
        for piece in _pieces(text.content):
            tokens = tokenize(piece)
            last = 1 if one_each else len(tokens)
            whole = [tokens[n : n + length] for n in range(0, last, length)]
            least = min(length // 2, len(tokens))
            passages += [passage for passage in whole if len(passage) >= least]
    return passages


def _pieces(content: str) -> list[str]:
    """``content``, or pieces from all over it where it is long: a book is not tokenized whole."""
    most = _MOST_PASSAGES * _PASSAGE_CHARACTERS
    if len(content) <= most:
        return [content]
    begins = range(0, len(content), len(content) // _MOST_PASSAGES)
    return [content[begin : begin + _PASSAGE_CHARACTERS] for begin in begins]


def _shuffled(passages: list[list[int]]) -> list[list[int]]:
    """In another order, always the same: the first few are from all over."""
    Random(0).shuffle(passages)
    return passages


def _digest(*contents: str) -> str:
    return hashlib.sha256("\n\n".join(contents).encode()).hexdigest()
