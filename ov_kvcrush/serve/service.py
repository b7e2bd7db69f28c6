"""What all routes share: the pipeline and what stands around it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ov_kvcrush.serve.admission import Admission
from ov_kvcrush.serve.errors import engine_failed, loading, model_not_found, shutting_down
from ov_kvcrush.serve.request_log import RequestLog
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    import asyncio

    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.serve.chats import Chats
    from ov_kvcrush.serve.named_prefixes import NamedPrefixes
    from ov_kvcrush.serve.token_texts import TokenTexts
    from ov_kvcrush.serve.tools.served import ServedTools

MAX_FAILED_STEPS = 3
"""Steps that may fail in a row before the engine is given up."""


@dataclass
class Service:
    """One server's; ``request.app.state.service``. Its event loop alone touches it.

    Attributes:
        settings: of the server.
        admission: who may come in.
        pipeline: None while the model is loaded.
        token_texts: of its tokenizer; likewise.
        chats: kept by session key; likewise.
        prefixes: kept by name; likewise.
        served_tools: what answers may call; likewise.
        loading: the loading of the model, which may have failed.
        log: of requests.
        draining: no more are taken.
        began_at: ``time.time()``.
    """

    settings: ServeSettings
    admission: Admission = field(init=False)
    pipeline: AsyncLLMPipeline | None = None
    token_texts: TokenTexts | None = None
    chats: Chats | None = None
    prefixes: NamedPrefixes | None = None
    served_tools: ServedTools | None = None
    loading: asyncio.Task[None] | None = None
    log: RequestLog = field(default_factory=RequestLog)
    draining: bool = False
    began_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings)

    def usable_pipeline(self) -> AsyncLLMPipeline:
        """The pipeline, where requests may be given to it.

        Raises:
            ApiError: it is not there yet, is about to end, or is not to be relied on any more.
        """
        if self.draining:
            raise shutting_down()
        if self.pipeline is None:
            raise loading()
        health = self.pipeline.health()
        if health.broken or health.steps_failed_in_a_row >= MAX_FAILED_STEPS:
            raise engine_failed()
        return self.pipeline

    @property
    def texts(self) -> TokenTexts:
        """The vocabulary's; there once :meth:`usable_pipeline` is.

        Raises:
            ApiError: it is not there yet.
        """
        if self.token_texts is None:
            raise loading()
        return self.token_texts

    @property
    def tools(self) -> ServedTools:
        """What answers may call; there once :meth:`usable_pipeline` is.

        Raises:
            ApiError: it is not there yet.
        """
        if self.served_tools is None:
            raise loading()
        return self.served_tools

    def require_model(self, name: str) -> None:
        """Refuse a request to another model; no name is this one.

        Raises:
            ApiError: it names another.
        """
        if name and name not in self.settings.model_names:
            raise model_not_found(name, self.settings.model_names)
