"""The order in which documents are taken: one of each task after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from ov_kvcrush.evaluation.dataset import stable_number


class _Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def task(self) -> str: ...


_Document = TypeVar("_Document", bound=_Named)


def one_of_each(documents: Iterable[_Document]) -> list[_Document]:
    """``documents``, one of each task after the other, tasks in the order of their names.

    Within a task the order is random and the same every time: as many of them as one likes, from
    the front, are a fair sample.
    """
    by_task: dict[str, list[_Document]] = {}
    for document in sorted(documents, key=lambda one: stable_number(f"draw {one.id}")):
        by_task.setdefault(document.task, []).append(document)
    rounds = max(map(len, by_task.values()), default=0)
    return [
        by_task[task][n]
        for n in range(rounds)
        for task in sorted(by_task)
        if n < len(by_task[task])
    ]
