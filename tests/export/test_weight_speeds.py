"""Which weights this CPU multiplies with fastest."""

from __future__ import annotations

from ov_kvcrush.export.weight_speeds import FORMATS, measure_weight_speeds
from ov_kvcrush.plan import LayerGeometry


def test_every_format_is_measured_in_products_of_any_width() -> None:
    for heads, size in ((2, 64), (3, 80), (1, 16)):
        speeds = measure_weight_speeds([LayerGeometry(heads, heads, size, size, 0)], 1000)
        assert list(speeds) == list(FORMATS)
        assert all(speed.token > 0 and speed.prompt > 0 for speed in speeds.values())
