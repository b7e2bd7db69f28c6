"""What fits into a machine: tokens that are kept in full, and users whose caches have a budget."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.eviction.forecast import CacheForecast
from ov_kvcrush.runtime.interface import EngineLimits

# The context of a user in full where the model does not say how much it was made to read.
_CONTEXT_WHERE_UNKNOWN = 32768


@dataclass(frozen=True)
class Room:
    """Room for KV caches beside a model's weights.

    Attributes:
        free_bytes: memory that is free now.
        weights_bytes: of the model.
        tokens_in_full: that fit where nothing is evicted.
        context: tokens of a user in full.
        users_in_full: whose whole contexts fit.
        user_bytes: that the cache of a user with a budget takes at most between two prompts.
        users: whose caches with a budget fit.
        reading_bytes: that such a cache takes at most while a long prompt is read.
        users_reading: who can read one at the same time.
    """

    free_bytes: int
    weights_bytes: int
    tokens_in_full: int
    context: int
    users_in_full: int
    user_bytes: int
    users: int
    reading_bytes: int
    users_reading: int

    @property
    def cache_bytes(self) -> int:
        """Bytes that are left for caches; below 0 where the weights do not fit."""
        return self.free_bytes - self.weights_bytes


def room_for(plan: KVPlan, forecast: CacheForecast, free_bytes: int | None = None) -> Room:
    """The room that there is beside the weights of ``plan``'s model.

    Args:
        plan: of the model; its weights count as they lie on the disk.
        forecast: of its caches with a budget.
        free_bytes: memory for both; None is what is free in this machine.
    """
    if free_bytes is None:
        free_bytes = int(psutil.virtual_memory().available)
    weights_bytes = int(plan.weights.get("size_bytes", 0))
    left = max(0, free_bytes - weights_bytes)
    longest = plan.context_length
    context = longest or _CONTEXT_WHERE_UNKNOWN
    tokens = int(left / plan.kv_bytes_per_token) if plan.kv_bytes_per_token else 0
    user = forecast.most_bytes(longest)
    reading = forecast.most_bytes_while_read(EngineLimits().max_num_batched_tokens, longest)
    reading = max(user, reading)
    return Room(
        free_bytes=free_bytes,
        weights_bytes=weights_bytes,
        tokens_in_full=tokens,
        context=context,
        users_in_full=tokens // context,
        user_bytes=user,
        users=left // user,
        reading_bytes=reading,
        users_reading=left // reading,
    )
