"""A precision for each layer's keys and values: measured harm, predicted for the rest, chosen.

Two precisions are measured for each layer, keys in u4 and values in u4. What another storage does
follows from its error, which NNCF collects: harm grows with the square of what is stored wrongly,
and adds up over keys, values and layers (docs/kv-plan.md has how well).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.kv_plan.assignment import Assignment, Choice, best_assignments
from ov_kvcrush.export.kv_plan.sensitivity import SensitivityTrial
from ov_kvcrush.export.kv_plan.storage_errors import Storage, collect_errors
from ov_kvcrush.export.kv_plan.target import Target
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

U8, LOW_KEY, LOW_VALUE = (
    LayerPrecision("u8", "u8"),
    LayerPrecision("u4", "u8"),
    LayerPrecision("u8", "u4"),
)
_GROUP_SIZES = (32, 16)
# Of what all layers in u8 take, where the user names no target.
_DEFAULT_PART = 0.75


@dataclass(frozen=True)
class HarmTable:
    """What each precision does to the output in each layer, in nats a token.

    Attributes:
        precisions: those to choose from.
        harms: by layer and precision.
        sizes: bytes of a token, by layer and precision.
    """

    precisions: tuple[LayerPrecision, ...]
    harms: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[float, ...], ...]

    def choose(self, target: Target) -> Assignment:
        """The least harm within the bytes, or the fewest bytes within the drop.

        Raises:
            ConfigError: the target cannot be met.
        """
        choices = [
            [Choice(size, harm) for size, harm in zip(sizes, harms, strict=True)]
            for sizes, harms in zip(self.sizes, self.harms, strict=True)
        ]
        front = best_assignments(choices)
        if target.max_drop is not None:
            for one in front:
                if one.harm <= target.max_drop:
                    return one
            raise ConfigError(
                f"no KV plan diverges by less than {front[-1].harm:.2g} nats, "
                f"and --max-drop is {target.max_drop:g}",
                "Raise it, or store the whole cache in bf16: --kv-cache-precision bf16.",
            )
        all_u8 = sum(sizes[self.precisions.index(U8)] for sizes in self.sizes)
        most = target.kv_bytes_per_token or _DEFAULT_PART * all_u8
        fitting = [one for one in front if one.num_bytes <= most]
        if not fitting:
            raise ConfigError(
                f"no KV plan takes less than {front[0].num_bytes:,.0f} bytes a token, "
                f"and --kv-bytes-per-token is {most:,.0f}",
                "Raise it, and keep fewer tokens instead: chat --max-cache-size.",
            )
        return fitting[-1]


def candidates(layers: Sequence[LayerGeometry]) -> tuple[LayerPrecision, ...]:
    """Precisions every layer can have: all pairs of u8 and u4, values in groups too."""
    sizes = [0] + [
        group
        for group in _GROUP_SIZES
        if all(n.value_head_size > group and n.value_head_size % group == 0 for n in layers)
    ]
    values = [("u8", 0), *(("u4", group) for group in sizes)]
    return tuple(
        LayerPrecision(key, value, value_group_size=group)
        for key in ("u8", "u4")
        for value, group in values
    )


def measure_harm(
    folder: Path,
    trial: SensitivityTrial,
    layers: Sequence[LayerGeometry],
    passages: Sequence[Sequence[int]],
    on_progress: Callable[[float], None] = lambda share: None,
) -> HarmTable:
    """Measure and predict what every candidate does in every layer.

    Args:
        folder: exported model.
        trial: of it, on the same passages.
        layers: its geometry.
        passages: token ids of the calibration texts.
        on_progress: told what share is done, 0 to 1.

    Raises:
        UnsupportedError, ExportError, ModelError: as the trial and the statistics.
    """
    precisions = candidates(layers)
    keys = [Storage(kind) for kind in ("u8", "u4")]
    values = list(dict.fromkeys(Storage(p.value, p.value_group_size) for p in precisions))
    errors = collect_errors(folder, passages, keys, values)
    harms = []
    for number, (key_errors, value_errors) in enumerate(errors):
        low_key = trial.harm(number, LOW_KEY)
        on_progress((number + 0.5) / len(layers))
        low_value = trial.harm(number, LOW_VALUE)
        on_progress((number + 1) / len(layers))
        of_key = dict(zip(keys, key_errors * (low_key / key_errors[1]), strict=True))
        full = values.index(Storage("u4"))
        of_value = dict(zip(values, value_errors * (low_value / value_errors[full]), strict=True))
        harms.append(
            tuple(
                float(of_key[Storage(p.key)] + of_value[Storage(p.value, p.value_group_size)])
                for p in precisions
            )
        )
    sizes = tuple(tuple(kv_bytes_per_token([n], [p]) for p in precisions) for n in layers)
    return HarmTable(precisions, tuple(harms), sizes)
