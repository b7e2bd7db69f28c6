"""Places for requests: counted, given up early or at the end, and none while the server drains."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from ov_kvcrush.serve.admission import Admission
from ov_kvcrush.serve.errors import ApiError
from ov_kvcrush.serve.settings import ServeSettings


def admission(**settings: Any) -> Admission:
    return Admission(ServeSettings(model_names=("m",), **settings))


class Ending:
    """An answer that ends when the test says so."""

    def __init__(self) -> None:
        self._finished: Future[Any] = Future()

    def when_done(self, call: Any) -> None:
        self._finished.add_done_callback(call)

    def end(self) -> None:
        self._finished.set_result(None)


def test_as_many_come_in_as_may_run_and_wait() -> None:
    few = admission(max_running=1, max_waiting=1)
    with few.place(""), few.place(""):
        with pytest.raises(ApiError) as refused, few.place(""):
            pass
        assert (refused.value.status, refused.value.rejected) == (429, "busy")
        assert few.num_in_flight == 2
    with few.place(""):
        assert few.num_in_flight == 1


def test_a_key_has_its_own_share() -> None:
    shared = admission(max_running=2, max_waiting=2, max_per_key=1)
    with shared.place("a"):
        with pytest.raises(ApiError), shared.place("a"):
            pass
        with shared.place("b"):
            pass
    with shared.place("a"):
        pass


def test_whoever_reads_slowly_keeps_nobody_waiting() -> None:
    async def run() -> None:
        few = admission(max_running=1, max_waiting=0)
        answers: Any = [Ending(), Ending()]
        with few.place("") as place:
            place.hold_until_ended(answers)
            answers[0].end()
            await asyncio.sleep(0)
            assert few.num_in_flight == 1
            answers[1].end()
            await asyncio.sleep(0)
            assert (few.num_in_flight, few.num_open) == (0, 1)
            with few.place(""):
                assert (few.num_in_flight, few.num_open) == (1, 2)
        assert (few.num_in_flight, few.num_open) == (0, 0)

    asyncio.run(run())


def test_nobody_comes_in_while_it_drains_and_the_last_one_is_told_of() -> None:
    async def run() -> None:
        few = admission()
        with few.place(""):
            few.refuse_new()
            with pytest.raises(ApiError) as refused, few.place(""):
                pass
            assert (refused.value.status, refused.value.code) == (503, "shutting_down")
            assert not await few.nobody_left(0.01)
        assert await few.nobody_left(0.01)

    asyncio.run(run())
