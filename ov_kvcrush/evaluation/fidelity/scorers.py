"""The models of a comparison: one for each precision of the cache, and what is measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import policy_config
from ov_kvcrush.runtime.scoring.scorer import Scorer


@dataclass(frozen=True)
class ScorerSettings:
    """How scorers are made.

    Attributes:
        model_dir: exported model.
        device: name of the device.
        properties: of the plugin.
        chunk: tokens that are read at once.
        decode_precision: as ``LLMPipeline`` has it.
    """

    model_dir: Path
    device: str
    properties: Mapping[str, str] | None
    chunk: int
    decode_precision: str

    def make(
        self, configurations: Sequence[Configuration], pool_size: int
    ) -> list[tuple[Scorer, list[Configuration]]]:
        """A scorer for each precision, with those of ``configurations`` that it serves.

        Args:
            configurations: those of other engines are left out.
            pool_size: of each, in tokens.

        Raises:
            ModelError, ConfigError, DeviceError, UnsupportedError: as :class:`Scorer`.
        """
        by_precision: dict[tuple[str, str] | None, list[Configuration]] = {}
        for configuration in configurations:
            if configuration.engine == "paged":
                by_precision.setdefault(configuration.precision, []).append(configuration)
        return [
            (self._make(precision, served, pool_size), served)
            for precision, served in by_precision.items()
        ]

    def _make(
        self,
        precision: tuple[str, str] | None,
        configurations: Sequence[Configuration],
        pool_size: int,
    ) -> Scorer:
        key, value = precision or (None, None)
        config = KVCacheConfig(
            key_cache_precision=key,
            value_cache_precision=value,
            pool_size=pool_size,
            prefix_caching=False,
        )
        policies = {c.policy: policy_config(c) for c in configurations if c.keep is not None}
        return Scorer(
            self.model_dir,
            self.device,
            config,
            policies,
            dict(self.properties or {}),
            self.chunk,
            self.decode_precision,
        )
