"""Elements of a key or a value that share a scale: what fits a model, and what has no effect."""

from __future__ import annotations

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.plan import LayerGeometry

KEY_GROUPS_WITHOUT_EFFECT = (
    "--key-cache-group-size is written into the model, but OpenVINO's CPU plugin does not "
    "use it on the paged cache: it gives keys one scale per channel and page"
)


def check_group_sizes(layers: tuple[LayerGeometry, ...], value_group_size: int) -> None:
    """Refuse a value group size that does not divide the heads.

    Raises:
        ConfigError: it does not divide the size of every layer's heads.
    """
    for layer in layers:
        if value_group_size and layer.value_head_size % value_group_size:
            raise ConfigError(
                f"--value-cache-group-size {value_group_size} does not divide the head size "
                f"{layer.value_head_size}",
                f"Use a divisor of {layer.value_head_size}, or leave it out for the whole head.",
            )
