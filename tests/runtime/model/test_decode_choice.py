"""What decoding computes in where nobody says it."""

from __future__ import annotations

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.decode_choice import choose_decoding
from ov_kvcrush.runtime.model.weights import WeightBytes

INT8 = WeightBytes(200_000_000, 190_000_000)
U8, BF16 = (LayerPrecision("u8", "u8"),), (LayerPrecision("bf16", "bf16"),)
PLENTY = 10**12


def test_compressed_weights_are_decoded_from_in_f32_beside_bf16() -> None:
    choice = choose_decoding("auto", "bf16", lambda: INT8, U8, PLENTY, True)
    assert choice.precision == "f32"
    assert choice.reason == "faster; 200 MB of weights are in memory twice"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"asked": "same"}, "asked for"),
        ({"prompts_in": "f32"}, "prompts are read in f32 too"),
        (
            {"count_weights": lambda: WeightBytes(200_000_000, 90_000_000)},
            "the weights are not compressed",
        ),
        (
            {"count_weights": lambda: WeightBytes(6_000_000, 5_000_000)},
            "with 6 MB of weights nothing is gained",
        ),
        ({"has_amx": False}, "without AMX nothing is gained"),
        ({"stored": BF16}, "a KV cache in bf16 is not one in f32"),
        ({"free_bytes": 700_000_000}, "200 MB of weights twice is too much for 700 MB free"),
    ],
)
def test_elsewhere_it_is_what_prompts_are_read_in(changes: dict[str, object], reason: str) -> None:
    given = {
        "asked": "auto",
        "prompts_in": "bf16",
        "count_weights": lambda: INT8,
        "stored": U8,
        "free_bytes": PLENTY,
        "has_amx": True,
    }
    choice = choose_decoding(**{**given, **changes})  # type: ignore[arg-type]
    assert (choice.precision, choice.reason) == (None, reason)


def test_who_asks_for_it_gets_it_or_hears_why_not() -> None:
    plain = WeightBytes(200_000_000, 0)
    assert choose_decoding("f32", "bf16", lambda: plain, U8, 0, False).precision == "f32"
    with pytest.raises(ConfigError, match="f32 does not go with a KV cache in bf16"):
        choose_decoding("f32", "bf16", lambda: INT8, BF16, PLENTY, True)
    with pytest.raises(ConfigError, match="'f16' is not one of auto, f32, same"):
        choose_decoding("f16", "bf16", lambda: INT8, U8, PLENTY, True)
