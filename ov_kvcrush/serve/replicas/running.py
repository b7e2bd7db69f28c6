"""The replicas' life: Ray is started or joined, told what to run, and given back at the end."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray import serve
from ray.serve.config import HTTPOptions

from ov_kvcrush.errors import ModelError, OVKVCrushError, last_line
from ov_kvcrush.serve.log_lines import log_to_stderr
from ov_kvcrush.serve.replicas.deployment import application
from ov_kvcrush.serve.replicas.settings import ReplicaSettings
from ov_kvcrush.serve.server import KEEP_ALIVE_SECONDS, listen, url_of
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

NAME = "ov-kvcrush"
"""Of the application in its cluster."""

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Environment variable with the cluster to join; without it one is started here."""

# Ray keeps at least 75 MB for objects; requests and replies are small.
_OBJECT_STORE_BYTES = 100 * 1024 * 1024
# Ray's processes have two loops where one is enough for what never blocks it, as our application
# does not; each change of thread is paid for by every request and every token.
_ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
# Seconds behind the drain in which replicas tell that they have ended it.
_GRACE_SECONDS = 10.0

# Between two looks at whether a signal has come before all was ready.
_LOOK_EVERY = 0.2

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_OUR_ERROR = re.compile(r"^ov_kvcrush\.errors\.\w+: (.+(?:\n(?!\S+Error: |\s).+)?)", re.MULTILINE)

_log = logging.getLogger(__name__)


def run(
    settings: ServeSettings, load: Callable[[], LLMPipeline], replicas: ReplicaSettings
) -> None:
    """Serve by replicas until a signal comes, then let what is being answered end.

    Args:
        settings: of each replica's server; Ray's proxies listen at its host and port.
        load: loads the model, in each replica; what it needs has to be there on each node.
        replicas: how many.

    Raises:
        ConfigError: the address cannot be listened at.
        OVKVCrushError: the cluster cannot be reached, or the model cannot be loaded.
    """
    log_to_stderr()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    address = os.environ.get(ADDRESS_VARIABLE, "")
    if not address:  # elsewhere Ray may listen there already
        listen(settings.host, settings.port).close()
    url = url_of(settings.host, settings.port)
    _log.info("loading %s; it will be at %s/v1", settings.model_names[0], url)
    with _signals() as told, _cluster(address, told.event):
        told.listen()  # Ray has taken one of them
        if told.event.is_set():
            return
        serve.start(
            http_options=HTTPOptions(
                host=settings.host,
                port=settings.port,
                keep_alive_timeout_s=KEEP_ALIVE_SECONDS,
            ),
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        handle = _unless(told.event, partial(_deploy, application(settings, load, replicas)))
        if handle is None:
            return
        for node in ray.nodes():
            where = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
            _log.info("metrics of the replicas there are at http://%s/metrics", where)
        _log.info("ready")
        told.event.wait()
        _log.info("ending: what is being answered has %g seconds", settings.drain_seconds)
        _drain(handle, settings)


def _unless(event: threading.Event, work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or raises; None where ``event`` comes first, and nobody waits for it.

    A signal's handler may not raise while Ray's own code runs: that would tell something else then.
    """
    outcome = Future[Any]()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="ov-kvcrush deploying", daemon=True).start()
    while not event.is_set():
        with suppress(FutureTimeout):
            return outcome.result(_LOOK_EVERY)
    return None


def _deploy(app: Any) -> Any:
    """The handle of ``app``, once all its replicas answer.

    Raises:
        OVKVCrushError: they cannot be had.
    """
    try:
        return serve.run(app, name=NAME, route_prefix="/")
    except RuntimeError as error:
        reason = _reason()
        if found := _OUR_ERROR.search(reason):
            message, _, hint = found[1].partition("\n")
            raise ModelError(message, hint) from error
        raise OVKVCrushError(
            f"the replicas could not be started: {last_line(error)}",
            "Ray's log says more: /tmp/ray/session_latest/logs/serve.",
        ) from error


def _reason() -> str:
    """What Ray has been told of the replicas that could not be started: text with a traceback."""
    told = serve.status().applications[NAME].deployments
    return "\n".join(deployment.message for deployment in told.values())


def _drain(handle: Any, settings: ServeSettings) -> None:
    """Have every replica end as a server of its own would; Ray would wait for it, and kill it."""
    try:
        handle.broadcast("drain").results(
            timeout_s=settings.drain_seconds + _GRACE_SECONDS, return_exceptions=True
        )
    except Exception as error:  # Ray ends them in any case
        _log.warning("not all replicas have told that they ended: %s", error)


class _Told:
    """What signals have said.

    Attributes:
        event: that it is to end.
    """

    def __init__(self) -> None:
        self.event = threading.Event()

    def listen(self) -> None:
        """Be told of signals from now on."""
        for number in _SIGNALS:
            # The terminal's end does not end what was started to outlive it.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.handle)

    def handle(self, number: int, _: FrameType | None) -> None:
        """The first one ends it in order, the second one at once."""
        if self.event.is_set():
            # Some of Ray's processes would stay.
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
            os._exit(128 + number)
        self.event.set()


@contextmanager
def _signals() -> Iterator[_Told]:
    told = _Told()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    told.listen()
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _cluster(address: str, told: threading.Event) -> Iterator[None]:
    """The cluster to run in, until the end of the block.

    Args:
        address: of one to join; one is started where it is empty.
        told: set where a signal has come meanwhile; then it may not be there.

    Raises:
        OVKVCrushError: it cannot be reached.
    """
    # Ray tells its makers about each cluster unless it is asked not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in _ONE_LOOP.items():
        os.environ.setdefault(name, value)
    here: dict[str, Any] = {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    try:
        try:
            ray.init(**({"address": address} if address else here), logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            raise OVKVCrushError(
                f"a Ray cluster to run in cannot be had: {last_line(error)}",
                f"Look at {ADDRESS_VARIABLE}, and give RAY_AUTH_MODE=token where the cluster asks "
                "for a token; without the address one is started here."
                if address
                else "Ray's log says more: /tmp/ray/session_latest/logs.",
            ) from error
        except SystemExit:  # so Ray takes a signal
            told.set()
        yield
    finally:
        with suppress(Exception):
            if address:
                serve.delete(NAME)
            elif ray.is_initialized():
                serve.shutdown()
        ray.shutdown()
