"""Documents in turn: one of each task after the other, the same order every time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.evaluation.rotation import one_of_each


@dataclass(frozen=True)
class Document:
    id: str
    task: str


@given(st.lists(st.sampled_from("abc"), max_size=30), st.randoms())
def test_each_task_comes_before_any_comes_again(tasks: list[str], random: object) -> None:
    documents = [Document(str(number), task) for number, task in enumerate(tasks)]
    order = one_of_each(documents)
    assert sorted(order, key=lambda one: int(one.id)) == documents
    seen: dict[str, int] = {}
    for one in order:
        seen[one.task] = seen.get(one.task, 0) + 1
        left = {task for task in set(tasks) if tasks.count(task) >= seen[one.task]}
        assert all(seen.get(task, 0) >= seen[one.task] - 1 for task in left)
    shuffled = documents[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert one_of_each(shuffled) == order
