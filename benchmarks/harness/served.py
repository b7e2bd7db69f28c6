"""A server in a process of its own, which also tells what no endpoint does: memory and pages."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from openvino_genai import ChatHistory

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.serve.server import base_url, listen, make_server
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.settings import ServeSettings

NAME = "model"
CHUNK = 512
"""Tokens of one step, as `ov-kvcrush serve` has it by default."""


@dataclass(frozen=True)
class Look:
    """What a server holds between two steps of its engine.

    Attributes:
        resident_bytes: of its process.
        used_bytes: of the KV cache.
        num_running: sequences.
        num_waiting: likewise.
        num_open: requests that are being answered.
        trouble: what is wrong with the pages: each has to be free, or held as often as it is
            counted by sequences that run, wait or are parked; empty where nothing is.
    """

    resident_bytes: int
    used_bytes: int
    num_running: int
    num_waiting: int
    num_open: int
    trouble: str


class ServerChild:
    """The server, as the process that has started it sees it.

    Args:
        pipe: to it.

    Attributes:
        url: of it, without a path.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.url: str = pipe.recv()

    def ask(self, what: Callable[[Service], Any]) -> Any:
        """What a function of some module makes of the server's service, in the server's process."""
        self._pipe.send(what)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def served(model: Path, config: KVCacheConfig) -> Iterator[ServerChild]:
    """A server of ``model`` on a free port, until the end of the block.

    Raises:
        RuntimeError: it did not end as it should.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, model, config))
    process.start()
    theirs.close()
    try:
        yield ServerChild(ours)
    finally:
        process.terminate()
        process.join()
        ours.close()
    if process.exitcode:
        raise RuntimeError(f"the server ended with exit code {process.exitcode}")


def look(service: Service) -> Look:
    """At a server whose engine is ours."""
    pipeline = _pipeline(service)

    def at_rest(engine: Any) -> tuple[Any, str]:
        assert isinstance(engine, PagedEngine)
        metrics = engine.metrics()
        try:
            engine.check_integrity()
        except RuntimeError as error:
            return metrics, str(error)
        return metrics, ""

    metrics, trouble = asyncio.run(pipeline.call(at_rest))
    return Look(
        psutil.Process().memory_info().rss,
        metrics.used_bytes,
        metrics.num_running,
        metrics.num_waiting,
        service.admission.num_open,
        trouble,
    )


def answer_all(service: Service, prompts: Sequence[str], num_tokens: int, stream: bool) -> float:
    """Seconds in which the server's pipeline answers all ``prompts`` at once, without HTTP."""
    pipeline = _pipeline(service)

    async def answer(prompt: str) -> None:
        history = ChatHistory([{"role": "user", "content": prompt}])
        made = pipeline.generate(
            history, max_new_tokens=num_tokens, ignore_eos=True, do_sample=False
        )
        if stream:
            async for _ in made.deltas():
                pass
        await made

    async def run() -> float:
        began = time.perf_counter()
        await asyncio.gather(*map(answer, prompts))
        return time.perf_counter() - began

    return asyncio.run(run())


def _pipeline(service: Service) -> AsyncLLMPipeline:
    if service.pipeline is None:
        raise RuntimeError("the server has not loaded its model")
    return service.pipeline


def _serve(pipe: Connection, model: Path, config: KVCacheConfig) -> None:
    settings = ServeSettings(model_names=(NAME,), port=0, access_log=False)

    def load() -> LLMPipeline:
        return LLMPipeline(
            model,
            kv_cache_config=config,
            max_num_batched_tokens=CHUNK,
            max_num_seqs=settings.max_running,
        )

    server = make_server(settings, load)
    listener = listen(settings.host, settings.port)
    pipe.send(base_url(settings.host, listener))
    threading.Thread(target=_tell, args=(pipe, server.service), daemon=True).start()
    server.run([listener])
    if server.failure is not None:
        raise server.failure


def _tell(pipe: Connection, service: Service) -> None:
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(what(service))
        except Exception as error:
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
