"""The model that is measured: compiled so that it shows what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.cache_layer import each_head


@dataclass(frozen=True)
class Subject:
    """A compiled model to measure.

    Attributes:
        folder: it was read from.
        model: without a cache; who measures gives it one, the next one gives it another.
        shows_states: whether it shows the states that a gate is fitted on.
        precisions, properties: as :func:`compile_subject`.
    """

    folder: Path
    model: PagedModel
    shows_states: bool
    precisions: Sequence[LayerPrecision] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[LayerGeometry, ...]:
        """Its attention's geometry, by layer."""
        return self.model.layers

    def divided(self) -> PagedModel:
        """The model compiled once more, with a cache of its own for every KV head.

        A layer whose heads cannot be divided, or that has a sliding window, keeps one.
        """
        return PagedModel(
            self.folder,
            precisions=self.precisions,
            properties=self.properties,
            grouping=each_head,
        )


def compile_subject(
    folder: Path,
    precisions: Sequence[LayerPrecision] | None = None,
    properties: Mapping[str, Any] | None = None,
) -> Subject:
    """The model in ``folder`` on the paged cache.

    Args:
        folder: exported model.
        precisions: of the cache, by layer; None leaves it to the IR and the plugin.
        properties: of the plugin.

    Raises:
        ModelError, UnsupportedError, ConfigError: as :class:`PagedModel`.
    """

    def compiled(shows_states: bool) -> Subject:
        model = PagedModel(
            folder, precisions=precisions, properties=properties, shows_states=shows_states
        )
        return Subject(folder, model, shows_states, precisions, properties or {})

    try:
        return compiled(shows_states=True)
    except UnsupportedError:  # the states, or the model itself: then the next line says so
        return compiled(shows_states=False)
