"""Whether decoding is compiled apart, in f32, beside prompts in bf16; policy only.

Where the plugin computes in bf16 on AMX it converts compressed weights anew for every inference; in
f32 it quantizes the activations instead and multiplies in 8 bits (dynamic quantization). The first
is better for many tokens, the second for few (docs/decoding.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import AUTO, DECODE_PRECISIONS, SAME, LayerPrecision
from ov_kvcrush.runtime.model.weights import WeightBytes

_MB = 1e6

# Weights that stay in the processor's cache are decoded from as fast either way.
_LEAST_BYTES = 32e6
# The second copy is to leave the most of the memory to the cache and to others.
_MOST_OF_FREE_MEMORY = 1 / 4


@dataclass(frozen=True)
class DecodeChoice:
    """What decoding computes in.

    Attributes:
        precision: of its own compilation; None where there is none.
        reason: why, in a few words.
    """

    precision: str | None
    reason: str


def choose_decoding(
    asked: str,
    prompts_in: str,
    count_weights: Callable[[], WeightBytes],
    stored: Sequence[LayerPrecision],
    free_bytes: int,
    has_amx: bool,
) -> DecodeChoice:
    """What decoding is to compute in.

    Args:
        asked: one of ``DECODE_PRECISIONS``.
        prompts_in: type that prompts are read in.
        count_weights: gives the model's; called only where they decide, for it goes through all of
            a graph.
        stored: what the cache stores, by layer.
        free_bytes: of memory.
        has_amx: whether bf16 is computed by AMX; elsewhere it decodes as fast as f32.

    Raises:
        ConfigError: there is no such precision, or the cache cannot be shared with it.
    """
    if asked not in DECODE_PRECISIONS:
        raise ConfigError(
            f"decode_precision {asked!r} is not one of {', '.join(DECODE_PRECISIONS)}",
            f"{AUTO} decodes in f32 where that is faster, {SAME} in what prompts are read in.",
        )
    if asked == SAME:
        return DecodeChoice(None, "asked for")
    if prompts_in == "f32":
        return DecodeChoice(None, "prompts are read in f32 too")
    exact = _stored_as_computed(stored)
    if asked == AUTO:
        if exact:
            return DecodeChoice(None, f"a KV cache in {exact} is not one in f32")
        if not has_amx:
            return DecodeChoice(None, "without AMX nothing is gained")
    elif exact:
        raise ConfigError(
            f"decode_precision {asked} does not go with a KV cache in {exact}",
            "Store keys and values in u8 or u4, or leave decode_precision out.",
        )
    weights = count_weights()
    megabytes = f"{weights.total / _MB:,.0f} MB"
    if asked != AUTO:
        return DecodeChoice(asked, f"asked for; {megabytes} of weights are in memory twice")
    if not weights.are_compressed:
        return DecodeChoice(None, "the weights are not compressed")
    if weights.total < _LEAST_BYTES:
        return DecodeChoice(None, f"with {megabytes} of weights nothing is gained")
    if weights.total > _MOST_OF_FREE_MEMORY * free_bytes:
        reason = f"{megabytes} of weights twice is too much for {free_bytes / _MB:,.0f} MB free"
        return DecodeChoice(None, reason)
    return DecodeChoice("f32", f"faster; {megabytes} of weights are in memory twice")


def _stored_as_computed(stored: Sequence[LayerPrecision]) -> str:
    """A type in which the cache is not quantized, but what is computed in; empty for none."""
    kinds = {kind for layer in stored for kind in (layer.key, layer.value)}
    return min(kinds & {"bf16", "f32"}, default="")
