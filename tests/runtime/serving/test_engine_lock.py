"""The lock of an engine: everybody gets a turn, and nobody waits for himself."""

from __future__ import annotations

import threading
import time

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.serving.engine_lock import EngineLock
from tests.support.interrupting import interrupt_when


def test_its_holder_is_refused_at_once() -> None:
    lock = EngineLock()
    with lock, pytest.raises(ConfigError, match="would wait for itself"), lock:
        pass
    with lock:  # and it is free again
        pass


def test_who_runs_step_after_step_does_not_keep_others_waiting() -> None:
    lock, steps, stop = EngineLock(), list[int](), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                steps.append(len(steps))
                time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    waited = []
    for _ in range(20):
        before = len(steps)
        with lock:
            waited.append(len(steps) - before)
    stop.set()
    thread.join()
    assert max(waited) <= 2  # the one at work, and one that was just let in


def test_threads_take_turns_in_the_order_they_came() -> None:
    lock, order = EngineLock(), list[int]()

    def wait(number: int) -> None:
        with lock:
            order.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    with lock:
        for number, thread in enumerate(threads):
            thread.start()
            while len(lock._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_ctrl_c_ends_the_waiting_and_leaves_the_lock_whole() -> None:
    lock, taken, go = EngineLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    interrupt_when(lambda: lock._waiting)
    with pytest.raises(KeyboardInterrupt), lock:
        pass
    go.set()
    thread.join()
    with lock:
        pass
