"""What ``/metrics`` tells of one replica, told to Ray, whose nodes tell Prometheus of all.

Ray's metrics take single observations, and ours are sums already. So each sample is a gauge of its
own name, ``ov_kvcrush_requests_total`` and ``…_seconds_bucket`` with its ``le`` too: Prometheus'
functions go by values, not by types. Ray puts ``ray_`` before the names, and the replica's name
beside the labels.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.serve import metrics

from ov_kvcrush.serve.monitor import OURS, Monitor
from ov_kvcrush.serve.service import Service

_EVERY = 5.0

_log = logging.getLogger(__name__)


class Figures:
    """One replica's, for its event loop.

    Args:
        service: of the replica.
    """

    def __init__(self, service: Service) -> None:
        self._monitor = Monitor(service)
        self._gauges: dict[str, Any] = {}

    async def keep_telling(self) -> None:
        """Tell Ray every few seconds, until it is cancelled."""
        while True:
            try:
                self.tell()
            except Exception:  # a replica answers all the same
                _log.exception("metrics could not be told to Ray")
            await asyncio.sleep(_EVERY)

    def tell(self) -> None:
        """Tell Ray what there is to tell now."""
        for family in self._monitor.collect():
            for sample in family.samples:
                # Others' names are for gateways, which look for them without Ray's beginning.
                if sample.name.startswith(OURS):
                    gauge = self._gauges.get(sample.name)
                    if gauge is None:
                        gauge = self._gauges[sample.name] = metrics.Gauge(
                            sample.name, family.documentation, tuple(sample.labels)
                        )
                    gauge.set(sample.value, sample.labels)
