"""The ASGI application: its routes, and the life of the model behind them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from ov_kvcrush.serve.access import VERSIONS, Access, error_response
from ov_kvcrush.serve.chats import Chats
from ov_kvcrush.serve.errors import as_api_error
from ov_kvcrush.serve.named_prefixes import NamedPrefixes
from ov_kvcrush.serve.routes import (
    chat,
    completions,
    models,
    page,
    prefixes,
    responses,
    tokenizing,
    watching,
)
from ov_kvcrush.serve.schemas import ErrorReply
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.settings import ServeSettings
from ov_kvcrush.serve.token_texts import TokenTexts
from ov_kvcrush.serve.tools.served import ServedTools

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

# Seconds between two looks at chats that nobody goes on with.
_SAVE_EVERY = 2.0
# Seconds that replies have to be sent when the engine has done with all.
_SENDING_SECONDS = 5.0

_log = logging.getLogger(__name__)


def create_app(settings: ServeSettings, load: Callable[[], LLMPipeline]) -> FastAPI:
    """The application, as any ASGI server runs it; ``app.state.service`` is its :class:`Service`.

    Args:
        settings: of the server.
        load: loads the model, in a thread of its own; requests are answered with 503 meanwhile.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.loading = asyncio.create_task(_start(service, load))
        saving = asyncio.create_task(_keep_saving(service))
        try:
            yield
        finally:
            await drain(service)
            saving.cancel()

    app = FastAPI(
        title="ov-kvcrush",
        version=version("ov-kvcrush"),
        lifespan=lifespan,
        # Their pages take scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses={key: {"description": "Error", "model": ErrorReply} for key in ("4XX", "5XX")},
        **_without_telemetry(),
    )
    app.state.service = service
    for prefix in VERSIONS:
        is_first = prefix == VERSIONS[0]
        for part in (chat, completions, responses, models, prefixes):
            app.include_router(part.router, prefix=prefix, include_in_schema=is_first)
    for part in (tokenizing, watching, page):
        app.include_router(part.router)
    app.add_exception_handler(HTTPException, _tell)
    app.add_exception_handler(RequestValidationError, _tell)
    app.add_middleware(Access, service=service)
    if settings.cors_origins:
        # Around all else: browsers ask without a key whether they may ask, and read errors too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return app


async def drain(service: Service) -> None:
    """Take no more requests, let those there are end, keep chats, and close; once.

    Those that still run after ``drain_seconds`` are told that the server ends.
    """
    if service.draining:
        return
    service.draining = True
    service.admission.refuse_new()
    if service.loading is not None and not service.loading.done():
        service.loading.cancel()
    pipeline = service.pipeline
    if pipeline is None:
        return

    async def before_close() -> None:
        await service.admission.nobody_left(_SENDING_SECONDS)
        if service.chats is not None:
            await service.chats.save_all()

    await pipeline.drain(service.settings.drain_seconds, before_close)


async def _start(service: Service, load: Callable[[], LLMPipeline]) -> None:
    """Load the model and ask it something, so that the first request is as fast as the others."""
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline

    model = await _in_a_daemon(load)
    pipeline = AsyncLLMPipeline(model)
    chats, prefixes = Chats(pipeline, service.settings), NamedPrefixes(pipeline)
    texts, tools = TokenTexts(pipeline.get_tokenizer()), ServedTools(pipeline, service.settings)
    await asyncio.to_thread(texts.read_vocabulary)
    await asyncio.to_thread(lambda: tools.style)
    await pipeline.generate("Hello", max_new_tokens=2, owner="warm-up")
    service.token_texts, service.served_tools = texts, tools
    service.chats, service.prefixes = chats, prefixes
    service.pipeline = pipeline


async def _keep_saving(service: Service) -> None:
    """Save chats that nobody goes on with, as long as the server takes requests."""
    while not service.draining:
        await asyncio.sleep(_SAVE_EVERY)
        if service.chats is not None and not service.draining:
            try:
                await service.chats.save_idle()
            except Exception:  # the next time may be better
                _log.exception("idle chats could not be saved")


async def _in_a_daemon(load: Callable[[], LLMPipeline]) -> LLMPipeline:
    """What ``load`` returns. Nothing can interrupt it, so nobody waits for its thread."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[LLMPipeline] = loop.create_future()

    def tell(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not loaded.done():
            set_outcome(outcome)

    def run() -> None:
        with suppress(RuntimeError):  # the loop has gone meanwhile
            try:
                model = load()
            except BaseException as error:
                loop.call_soon_threadsafe(tell, loaded.set_exception, error)
            else:
                loop.call_soon_threadsafe(tell, loaded.set_result, model)

    threading.Thread(target=run, name="ov-kvcrush loading", daemon=True).start()
    return await loaded


async def _tell(_: Request, error: Exception) -> Response:
    return error_response(as_api_error(error))


def _without_telemetry() -> dict[str, Any]:
    """Arguments that keep FastAPI from measuring what it answers, where it knows them."""
    if "telemetry" not in inspect.signature(FastAPI).parameters:
        return {}
    return {"telemetry": {"tracing": False, "metrics": False, "logs": False}}
