"""Passages of plain texts, all of one length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.dataset import half_of
from ov_kvcrush.evaluation.fidelity.texts import Text


@dataclass(frozen=True)
class Passage:
    """Tokens to be told on.

    Attributes:
        id: of this passage alone.
        task: name of the text's kind.
        tokens: with what the tokenizer puts before every prompt.
    """

    id: str
    task: str
    tokens: tuple[int, ...]


def make_passages(
    texts: Iterable[Text],
    encode: Callable[[str], list[int]],
    lead: list[int],
    length: int,
    split: str = "all",
) -> list[Passage]:
    """All passages of ``length`` tokens that follow one another in ``texts``.

    What is left at the end of a text is left out.

    Args:
        texts: plain ones.
        encode: tokens of a text of any length.
        lead: tokens before every prompt; they count.
        length: tokens of a passage.
        split: half of the passages, as :func:`choose_examples` has it.

    Raises:
        ConfigError: a text is a conversation, or none is long enough.
    """
    found = list(_passages(texts, encode, lead, length))
    if not found:
        raise ConfigError(
            f"no text has the {length:,} tokens of a passage", "Give a smaller --length."
        )
    chosen = [passage for passage in found if split in ("all", half_of(passage.id))]
    if not chosen:
        raise ConfigError(f"no passage is in the half {split!r}", "Leave --split out.")
    return chosen


def _passages(
    texts: Iterable[Text], encode: Callable[[str], list[int]], lead: list[int], length: int
) -> Iterator[Passage]:
    for text in texts:
        if not isinstance(text.content, str):
            raise ConfigError(
                f"{text.id} is a conversation; perplexity is of plain texts",
                'Give a text file, or lines that are {"text": TEXT}.',
            )
        tokens, step = encode(text.content), length - len(lead)
        for number, begin in enumerate(range(0, len(tokens) - step + 1, max(1, step)), start=1):
            own = tokens[begin : begin + step]
            yield Passage(f"{text.id} {number}", text.task, (*lead, *own))
