"""What all routes share: the pipeline and what stands around it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ov_kvcrush.serve.request_log import RequestLog
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline


@dataclass
class Service:
    """One server's; ``request.app.state.service``. Its event loop alone touches it.

    Attributes:
        settings: of the server.
        pipeline: None while the model is loaded.
        log: of requests.
        draining: no more are taken.
        began_at: ``time.time()``.
    """

    settings: ServeSettings
    pipeline: AsyncLLMPipeline | None = None
    log: RequestLog = field(default_factory=RequestLog)
    draining: bool = False
    began_at: float = field(default_factory=time.time)
