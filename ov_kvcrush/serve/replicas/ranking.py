"""Which replica a request is sent to: its session's own, another where that one is full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b


def rank(
    session: str, request: str, replicas: Sequence[str], loads: Mapping[str, int], spill_at: int
) -> list[str]:
    """``replicas``, the best for a request first.

    A session has an order of all replicas that depends on their names and its key alone (rendezvous
    hashing: Thaler and Ravishankar 1998), so that every router has the same, and a replica that
    comes or goes moves those sessions only whose first it is. The first that has room in this order
    is the best; where none has room, its own is, and says so. A request without a session goes to
    whoever has least to do.

    Args:
        session: its key; empty without one.
        request: its id, which spreads requests without a session among replicas that have as much
            to do.
        replicas: names of those there are.
        loads: requests at each, where that is known.
        spill_at: requests with which a replica is full.
    """
    order = sorted(replicas, key=lambda name: _score(session or request, name), reverse=True)
    if not session:
        return sorted(order, key=lambda name: loads.get(name, 0))
    return sorted(order, key=lambda name: loads.get(name, 0) >= spill_at)


def _score(key: str, replica: str) -> bytes:
    # The replica's name first: its end is known, whatever a client has put into its key.
    text = f"{replica}:{key}".encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=8).digest()
