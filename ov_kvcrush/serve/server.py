"""The server's process: its socket, its signals, its log, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.serve.app import create_app, drain
from ov_kvcrush.serve.log_lines import log_to_stderr
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

KEEP_ALIVE_SECONDS = 75
"""Of an idle connection. Clients' pools keep theirs for about as long, and whoever closes first
loses no request by it."""

# Seconds behind the drain until the connections of clients that read too slowly are cut.
_GRACE_SECONDS = 10

_log = logging.getLogger(__name__)


def run(settings: ServeSettings, load: Callable[[], LLMPipeline]) -> None:
    """Serve until a signal comes, then let what is being answered end.

    Args:
        settings: of the server.
        load: loads the model; what it raises ends the server.

    Raises:
        ConfigError: the address cannot be listened at.
        OVKVCrushError: the model cannot be loaded.
    """
    log_to_stderr()
    listener = listen(settings.host, settings.port)
    server = make_server(settings, load)
    server.run([listener])
    if server.failure is not None:
        raise server.failure


def make_server(settings: ServeSettings, load: Callable[[], LLMPipeline]) -> Server:
    """A server that has not begun; what it listens at goes to its ``run``.

    Args:
        settings: of the server.
        load: loads the model.
    """
    app = create_app(settings, load)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return Server(config, app.state.service)


class Server(uvicorn.Server):
    """Ends with no reply broken off, unless it is told twice.

    Args:
        config: of uvicorn.
        service: that is drained first.

    Attributes:
        service: what its routes share.
        failure: why the model could not be loaded.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_told = False
        self.failure: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen while the model is loaded."""
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)  # the terminal has gone
        await super().startup(sockets)
        settings = self.service.settings
        for listener in sockets or []:
            url = base_url(settings.host, listener)
            _log.info("loading %s; it will be at %s/v1", settings.model_names[0], url)
        if self.service.loading is not None:
            self.service.loading.add_done_callback(self._loaded)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, and end then; at once when it is the second signal, or nothing is there yet.

        Nothing is said here: the signal may have come while something was written.
        """
        if self._is_told:
            os._exit(128 + sig)
        self._is_told = True
        if self._loop is None or self.service.pipeline is None:
            os._exit(0)  # nothing can interrupt the loading of a model
        self._loop.call_soon_threadsafe(self._begin_to_end)

    def _begin_to_end(self) -> None:
        count = self.service.admission.num_open
        _log.info("ending: %d requests are still being answered", count)
        self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        try:
            await drain(self.service)
        finally:
            self.should_exit = True

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        if loading.cancelled():
            return
        self.failure = loading.exception()
        if self.failure is not None:
            self.should_exit = True
        else:
            if self.service.pipeline is not None and (
                computing := self.service.pipeline.describe().computing
            ):
                _log.info("%s", computing)
            _log.info("ready")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port``.

    Raises:
        ConfigError: there is no such address, or it is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # localhost is both; clients try either.
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {reason}",
            "Give another --port (0 finds a free one) or --host.",
        ) from error
    # Connections inherit it, and asyncio sets it only on sockets that name their protocol. Without
    # it each small piece waits for the one before to be acknowledged, which takes clients 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def base_url(host: str, listener: socket.socket) -> str:
    """Where clients on this machine find it."""
    return url_of(host, listener.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """Where clients find what listens at ``host`` and ``port``."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"
