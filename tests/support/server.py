"""A real server on a port of its own, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn

from ov_kvcrush import LLMPipeline
from ov_kvcrush.serve.app import create_app
from ov_kvcrush.serve.server import base_url, listen
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.settings import ServeSettings

_PATIENCE = 60.0


@dataclass
class RunningServer:
    """One that answers.

    Attributes:
        url: of it, without a path.
        service: what its routes share; its event loop's alone, but to look at.
        client: asks it, with the server's key.
    """

    url: str
    service: Service
    client: httpx2.Client

    def chat(self, text: str = "Hello", **fields: Any) -> httpx2.Response:
        """The reply to a conversation of one message; greedy unless ``fields`` say otherwise."""
        body = {"model": "needle", "messages": [{"role": "user", "content": text}]}
        return self.client.post("/v1/chat/completions", json={**body, "temperature": 0, **fields})

    @contextmanager
    def stream(self, text: str = "Hello", **fields: Any) -> Iterator[Iterator[str]]:
        """The lines of a streamed one."""
        body: dict[str, Any] = {"model": "needle", "temperature": 0, "stream": True}
        body |= {"messages": [{"role": "user", "content": text}], **fields}
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            yield response.iter_lines()

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for something that the server does."""
        until = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(0.01)

    @property
    def num_at_work(self) -> int:
        """Sequences that the engine runs or will run, at most 0.2 seconds ago."""
        assert self.service.pipeline is not None
        metrics = self.service.pipeline.snapshot()
        return metrics.num_running + metrics.num_waiting


@contextmanager
def serving(
    load: Callable[[], LLMPipeline], *, key: str = "", wait: bool = True, **settings: Any
) -> Iterator[RunningServer]:
    """A server that listens to a free port, until the end of the block.

    Args:
        load: its model.
        key: that the client sends.
        wait: until the model is there.
        settings: fields of ``ServeSettings``.
    """
    given: dict[str, Any] = {"model_names": ("needle",), "port": 0, "access_log": False}
    configured = ServeSettings(**(given | settings))
    listener = listen(configured.host, configured.port)
    app = create_app(configured, load)
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    url = base_url(configured.host, listener)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(base_url=url, headers=headers, timeout=_PATIENCE) as client:
            running = RunningServer(url, app.state.service, client)
            running.wait_until(lambda: server.started)
            if wait:
                running.wait_until(lambda: running.service.pipeline is not None, _PATIENCE)
            yield running
    finally:
        server.should_exit = True
        thread.join()
