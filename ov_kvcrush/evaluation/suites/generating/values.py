"""Values, keys and names that are drawn at random, no two alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from uuid import UUID


def distinct(draw: Callable[[], str]) -> Iterator[str]:
    """What ``draw`` gives, without end, each text once."""
    seen: set[str] = set()
    while True:
        text = draw()
        if text not in seen:
            seen.add(text)
            yield text


def numbers(random: Random, num_digits: int) -> Iterator[str]:
    """Numbers with so many digits, the first not 0."""
    least = 10 ** (num_digits - 1)
    return distinct(lambda: str(random.randrange(least, 10 * least)))


def uuids(random: Random) -> Iterator[str]:
    """UUIDs as 32 hexadecimal digits in five groups."""
    return distinct(lambda: str(UUID(int=random.getrandbits(128), version=4)))


def names(
    random: Random, first: Sequence[str], second: Sequence[str], joiner: str = "-"
) -> Iterator[str]:
    """Names of two words, such as ``calm-otter``, without end.

    When half of them are used up, names get one more of the second words, and so on.
    """
    seen: set[str] = set()
    num_names = len(first) * len(second)
    num_words = 2
    while True:
        if 2 * len(seen) >= num_names:
            num_words, num_names = num_words + 1, num_names * len(second)
        words = [random.choice(first), *(random.choice(second) for _ in range(num_words - 1))]
        name = joiner.join(words)
        if name not in seen:
            seen.add(name)
            yield name


def take(values: Iterator[str], count: int) -> list[str]:
    """The next ``count`` of ``values``."""
    return [next(values) for _ in range(count)]


def uuid_pairs(keys: Iterator[str], values: Iterator[str], amount: int) -> list[tuple[str, str]]:
    """Pairs of UUIDs with ``amount`` groups of digits in all, ten a pair; the last may be short.

    So that texts made of them can be of any length: one pair alone has some sixty tokens.

    Args:
        keys, values: from :func:`uuids`.
        amount: of groups; a last one alone is left out.
    """
    num_pairs, rest = divmod(amount, 10)
    pairs = [(next(keys), next(values)) for _ in range(num_pairs)]
    if rest > 1:
        key, value = next(keys).split("-"), next(values).split("-")
        pairs.append(("-".join(key[: (rest + 1) // 2]), "-".join(value[: rest // 2])))
    return pairs
