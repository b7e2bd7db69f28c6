"""What is done beside the model's compilation: in order, none before it is time, errors kept."""

from __future__ import annotations

import threading

import pytest

from ov_kvcrush.runtime.plugin.spare_thread import SpareThread


def test_nothing_is_done_before_it_begins() -> None:
    spare, done = SpareThread(), list[str]()
    first, second = spare.add(lambda: done.append("first")), spare.add(lambda: done.append("next"))
    assert not first.done()
    assert done == []
    spare.begin()
    second.result(5)
    assert done == ["first", "next"]


def test_what_is_added_later_is_done_at_once_and_on_another_thread() -> None:
    spare = SpareThread()
    spare.begin()
    assert spare.add(threading.get_ident).result(5) != threading.get_ident()


def test_an_error_is_raised_where_the_result_is_wanted_and_the_rest_is_done() -> None:
    spare = SpareThread()
    wrong, right = spare.add(lambda: 1 // 0), spare.add(lambda: 2)
    spare.begin()
    assert right.result(5) == 2
    with pytest.raises(ZeroDivisionError):
        wrong.result(5)
