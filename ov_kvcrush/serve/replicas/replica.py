"""One replica: the server's application in a process of Ray's, with a model of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.serve.app import create_app, drain
from ov_kvcrush.serve.condition import FAILED, condition
from ov_kvcrush.serve.log_lines import log_to_stderr
from ov_kvcrush.serve.replicas.figures import Figures
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline


class Replica:
    """What Ray Serve asks of a deployment; requests go to the application itself.

    Args:
        settings: of the server.
        load: loads the model.
    """

    def __init__(self, settings: ServeSettings, load: Callable[[], LLMPipeline]) -> None:
        log_to_stderr()
        self._app = create_app(settings, load)
        self._app.add_middleware(WithoutRequestId)
        self._service: Service = self._app.state.service
        self._telling: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, whose life begins when Ray has it."""
        self._telling = asyncio.create_task(Figures(self._service).keep_telling())
        return self._app

    async def check_health(self) -> None:
        """Asked once before the first request, and then every few seconds.

        Raises:
            OVKVCrushError: the model could not be loaded.
            RuntimeError: only a new process helps.
        """
        loading = self._service.loading
        if loading is not None and not self._service.draining:
            # The first time: until then no request is to come.
            try:
                await asyncio.shield(loading)
            except OVKVCrushError as error:
                # What Ray shows of it is for whoever started the server.
                raise error.with_traceback(None) from None
        if condition(self._service) == FAILED:
            raise RuntimeError("the engine has failed; its log says why")

    async def drain(self) -> None:
        """Take no more requests, let those there are end, keep chats."""
        await drain(self._service)


class WithoutRequestId:
    """Leaves ``X-Request-Id`` to Ray's proxy, which puts one into requests and replies itself.

    Args:
        app: answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._app(scope, receive, reply)
