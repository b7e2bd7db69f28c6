"""What Ray Serve is to run: the server's replicas, how many, and who gets which request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from ov_kvcrush.serve.errors import RETRY_SECONDS
from ov_kvcrush.serve.replicas.replica import Replica
from ov_kvcrush.serve.replicas.settings import ReplicaSettings
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

_ROUTER = "ov_kvcrush.serve.replicas.router.SessionRouter"

_HEALTH_SECONDS, _HEALTH_TIMEOUT = 5.0, 60.0
# Until there are more replicas, and fewer: those that go take caches with them.
_MORE_AFTER, _FEWER_AFTER = 10.0, 600.0
# What counts is the mean of so long; Ray takes a look every ten.
_LOOK_BACK = 15.0
# Between two looks of an ending replica at whether its requests have ended.
_LOOK_EVERY = 0.5
# In each proxy. All that come at the same time are queued there for a moment.
_MOST_QUEUED = 1000
# Seconds behind the drain until a replica that has not ended is killed.
_GRACE_SECONDS = 10.0
# A model that cannot be loaded is not tried twenty times, as Ray does.
_MOST_TRIES = 1


def application(
    settings: ServeSettings, load: Callable[[], LLMPipeline], replicas: ReplicaSettings
) -> Any:
    """An application as ``ray.serve.run`` takes it.

    Each replica counts its requests itself and answers 429 with our error's body where it has as
    many as it takes. Ray's own limits are above that, for what they refuse has a plain text.

    Args:
        settings: of each replica's server.
        load: loads the model, in the replica.
        replicas: how many.
    """
    limit = settings.max_running + settings.max_waiting
    deployment = serve.deployment(
        name="server",
        max_ongoing_requests=2 * limit,
        max_queued_requests=_MOST_QUEUED,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS),
        ray_actor_options={"num_cpus": replicas.threads},
        health_check_period_s=_HEALTH_SECONDS,
        health_check_timeout_s=_HEALTH_TIMEOUT,
        graceful_shutdown_wait_loop_s=_LOOK_EVERY,
        graceful_shutdown_timeout_s=settings.drain_seconds + _GRACE_SECONDS,
        max_constructor_retry_count=_MOST_TRIES,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        request_router_config=RequestRouterConfig(
            request_router_class=_ROUTER,
            request_router_kwargs={"spill_at": settings.max_running},
        ),
        **_how_many(settings, replicas),
    )
    return deployment(serve.ingress()(Replica)).bind(settings, load)


def _how_many(settings: ServeSettings, replicas: ReplicaSettings) -> dict[str, Any]:
    if replicas.is_fixed:
        return {"num_replicas": replicas.min_replicas}
    scaling = AutoscalingConfig(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        # More than run at once wait.
        target_ongoing_requests=settings.max_running,
        look_back_period_s=_LOOK_BACK,
        upscale_delay_s=_MORE_AFTER,
        downscale_delay_s=_FEWER_AFTER,
    )
    return {"autoscaling_config": scaling}
