"""A side of a benchmark: an engine, compiled, that does workloads and says what they took."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ov_kvcrush.benchmark.measurement import Measurement
from ov_kvcrush.benchmark.resident_memory import forget_peak, peak_resident_bytes
from ov_kvcrush.benchmark.side_setup import SideSetup
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.errors import ConfigError

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig

VOCABULARY_WHERE_UNKNOWN = 256
"""Ids that every model has."""


class Side(ABC):
    """An engine that is ready.

    Attributes:
        vocabulary: ids that prompts may have, 0 and on.
    """

    vocabulary: int

    @abstractmethod
    def measure(self, workload: Workload, turn: int) -> Measurement:
        """Do ``workload`` once, with the prompts of ``turn``.

        Raises:
            ConfigError: none of its answers came to its end.
            OVKVCrushError: as the engine.
        """


@dataclass
class Stopwatch:
    """Clocks that run from its making on; the peak of memory is counted from there too."""

    def __post_init__(self) -> None:
        forget_peak()
        self.begun = time.perf_counter()
        self._cpu_begun = time.process_time()

    def elapsed(self) -> float:
        """Seconds."""
        return time.perf_counter() - self.begun

    def cpu_seconds(self) -> float:
        """Of all threads of this process."""
        return time.process_time() - self._cpu_begun

    @property
    def peak_bytes(self) -> int:
        """The most memory that was resident."""
        return peak_resident_bytes()


def answer_settings(num_tokens: int) -> GenerationConfig:
    """Greedy, and past any end-of-sequence token."""
    from openvino_genai import GenerationConfig

    return GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True)


def require_answers(num_whole: int, workload: Workload, setup: SideSetup) -> None:
    """Refuse a measurement of nothing.

    Raises:
        ConfigError: not one answer is whole.
    """
    if not num_whole:
        raise ConfigError(
            f"{setup.title}: no answer to {workload.title} came to its end in a pool of "
            f"{setup.pool_size:,} tokens",
            "Give a larger one with --pool-size, or shorter prompts.",
        )
