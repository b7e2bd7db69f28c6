"""KVCrush again, as its steps read: plain Python, NumPy only for the random anchor's draws."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def pooled(row: list[float], kernel_size: int) -> list[float]:
    reach = kernel_size // 2
    return [max(row[max(0, t - reach) : t + reach + 1]) for t in range(len(row))]


def standardized(values: list[float]) -> np.ndarray:
    row = np.array(values, np.float32)
    row = row - row.mean()
    return np.asarray(row / row.std() if row.std() else row)


def order(values: list[float]) -> list[int]:
    """Indices, the highest value first, ties by index."""
    return sorted(range(len(values)), key=lambda index: (-values[index], index))


def evenly_spaced(ordered: list[int], count: int) -> list[int]:
    if count == 1:
        return ordered[:1]
    step = Fraction(len(ordered) - 1, count - 1) if count else 0
    return [ordered[math.floor(i * step + Fraction(1, 2))] for i in range(count)]


def make_anchor(name: str, rows: list[list[int]], seed: int) -> list[int]:
    length = len(rows[0])
    if name == "mean":
        return [int(2 * sum(column) > len(rows)) for column in zip(*rows, strict=True)]
    if name == "alternate":
        return [index % 2 for index in range(length)]
    if name == "random":
        return [int(bit) for bit in np.random.default_rng(seed).integers(0, 2, length)]
    return [{"zeros": 0, "ones": 1}[name]] * length


def select(
    attention: list[list[float]],
    positions: list[list[int]],
    distinctiveness: list[list[float]],
    gate: list[list[float]],
    max_cache_size: int,
    *,
    kernel_size: int,
    start_size: int,
    recent_size: int,
    representatives: str,
    representative_share: float,
    anchor: str,
    signature_heads: str,
    signature_fraction: float,
    seed: int,
    page_size: int,
) -> list[list[int]]:
    """The slots each KV head keeps."""
    heads, slots = len(positions), len(positions[0])
    group = len(attention) // heads
    if max_cache_size >= slots:
        return [list(range(slots))] * heads

    # Pages of the middle, as lists of slots; what follows the last whole page is recent.
    pages = []
    first = start_size
    while first + page_size <= slots - recent_size:
        pages.append(list(range(first, first + page_size)))
        first += page_size
    recent = list(range(first, slots))
    middle = range(start_size, first)

    # Step 1: the budget.
    kept = 0
    while start_size + (kept + 1) * page_size + len(recent) <= max_cache_size:
        kept += 1
    num_representatives = round(representative_share * kept)
    if representatives == "none":
        num_representatives = 0
    num_important = kept - num_representatives

    # Step 2: importance, by KV head and by query head.
    def importance(rows: list[list[float]]) -> list[float]:
        mean = [sum(row[t] for row in rows) / len(rows) for t in middle]
        return pooled(mean, kernel_size)

    by_kv_head = [importance(attention[h * group : (h + 1) * group]) for h in range(heads)]
    by_query_head = [importance([row]) for row in attention]

    def page_sums(row: list[float]) -> list[float]:
        """Sums of a row over the middle tokens, by page."""
        return [
            sum(row[index * page_size : (index + 1) * page_size]) for index in range(len(pages))
        ]

    important = [order(page_sums(row))[:num_important] for row in by_kv_head]

    # Step 3: signatures, by the number of the page (its true place in the sequence).
    voters = by_kv_head if signature_heads == "kv" else by_query_head
    numbers = [[positions[h][page[0]] // page_size for page in pages] for h in range(heads)]
    signatures = {
        number: [[0] * len(voters) for _ in range(page_size)] for row in numbers for number in row
    }
    for voter, scores in enumerate(voters):
        holder = voter * heads // len(voters)
        for token in order(scores)[: int(signature_fraction * len(scores))]:
            page, place = divmod(token, page_size)
            signatures[numbers[holder][page]][place][voter] = 1
    rows = {
        number: [bit for token in tokens for bit in token] for number, tokens in signatures.items()
    }

    # Steps 4 and 5: the anchor and the distances to it.
    reference = make_anchor(anchor, list(rows.values()), seed)
    distance = {
        number: sum(bit != wanted for bit, wanted in zip(row, reference, strict=True))
        for number, row in rows.items()
    }

    # Steps 6 and 7.
    result = []
    for h in range(heads):
        left = [page for page in range(len(pages)) if page not in important[h]]
        if representatives == "rank":
            left.sort(key=lambda page: (distance[numbers[h][page]], page))
            chosen = evenly_spaced(left, num_representatives)
        elif representatives == "even":
            chosen = evenly_spaced(left, num_representatives)
        elif representatives == "random":
            draw = np.random.default_rng(seed).random((heads, len(pages)), dtype=np.float32)
            left.sort(key=lambda page: (-draw[h][page], page))
            chosen = left[:num_representatives]
        elif representatives == "gate":
            row = [gate[h][t] for t in middle]
            best = [max(row[i * page_size : (i + 1) * page_size]) for i in range(len(pages))]
            left.sort(key=lambda page: (-best[page], page))
            chosen = left[:num_representatives]
        elif representatives == "gate_distinct":
            row = [gate[h][t] for t in middle]
            best = [max(row[i * page_size : (i + 1) * page_size]) for i in range(len(pages))]
            sums = page_sums([distinctiveness[h][t] for t in middle])
            mixed = standardized(best) + np.float32(0.2) * standardized(sums)
            left.sort(key=lambda page: (-mixed[page], page))
            chosen = left[:num_representatives]
        elif representatives == "bucket_distinct":
            sums = page_sums([distinctiveness[h][t] for t in middle])
            left.sort(key=lambda page: (distance[numbers[h][page]], page))
            chosen = []
            for bucket in range(1, 9):
                part = left[len(left) * (bucket - 1) // 8 : len(left) * bucket // 8]
                # Equal by distinctiveness: in the order of behaviour.
                ranked = sorted(range(len(part)), key=lambda i: (-sums[part[i]], i))
                wanted = num_representatives * bucket // 8 - len(chosen)
                chosen += [part[i] for i in ranked[: max(wanted, 0)]]
        else:
            sums = page_sums([distinctiveness[h][t] for t in middle])
            left.sort(key=lambda page: (-sums[page], page))
            chosen = left[:num_representatives]
        middle_slots = [slot for page in important[h] + chosen for slot in pages[page]]
        result.append(sorted([*range(start_size), *middle_slots, *recent]))
    return result
