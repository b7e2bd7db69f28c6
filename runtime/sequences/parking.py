"""Which sequences wait between two requests, for whom, and which of them was used longest ago."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session


@dataclass(frozen=True, eq=False)
class _Parked:
    """A sequence between two requests, and who may come back for it: nobody once that is gone."""

    sequence: Sequence
    session: weakref.ref[Session]


class Parking:
    """Sequences by the sessions they wait for, the one used longest ago first."""

    def __init__(self) -> None:
        self._parked: list[_Parked] = []

    @property
    def sequences(self) -> list[Sequence]:
        """All of them, those of forgotten sessions too."""
        return [parked.sequence for parked in self._parked]

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those that somebody still holds."""
        sessions = (parked.session() for parked in self._parked)
        return tuple(session for session in sessions if session is not None)

    def put(self, session: Session, sequence: Sequence) -> None:
        """Let ``sequence`` wait for ``session``."""
        self._parked.append(_Parked(sequence, weakref.ref(session)))

    def take(self, session: Session) -> Sequence | None:
        """The sequence that waited for ``session``, if there is one."""
        parked = self._place_of(session)
        if parked is None:
            return None
        self._parked.remove(parked)
        return parked.sequence

    def touch(self, session: Session) -> None:
        """Note that ``session`` was used just now, if a sequence waits for it."""
        parked = self._place_of(session)
        if parked is not None:
            self._parked.remove(parked)
            self._parked.append(parked)

    def take_forgotten(self) -> Sequence | None:
        """A sequence whose session nobody holds any more, which waits no longer."""
        for place, parked in enumerate(self._parked):
            if parked.session() is None:
                return self._parked.pop(place).sequence
        return None

    def _place_of(self, session: Session) -> _Parked | None:
        return next((p for p in self._parked if p.session() is session), None)
