"""What fits into a machine: counted in tokens and in users."""

from __future__ import annotations

from dataclasses import replace

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.inspection.memory import room_for
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.eviction.forecast import CacheForecast
from tests.support.plans import plan_of

CONFIG = KVCacheConfig(max_cache_size=1024)
PLAN = replace(  # 100 bytes a token
    plan_of(0), context_length=10_000, weights={"format": "fp32", "size_bytes": 1_000_000}
)


def forecast_of(plan: KVPlan) -> CacheForecast:
    return CacheForecast(CONFIG, plan.layers, plan.precisions, plan.head_shares)


def test_tokens_and_users_have_what_the_weights_leave() -> None:
    room = room_for(PLAN, forecast_of(PLAN), free_bytes=11_000_000)
    assert room.cache_bytes == 10_000_000
    assert (room.tokens_in_full, room.users_in_full) == (100_000, 10)
    assert (room.user_bytes, room.users) == ((1024 + 128) * 100, 86)
    assert (room.reading_bytes, room.users_reading) == ((1536 + 1024) * 100, 39)


def test_nothing_fits_beside_weights_that_do_not() -> None:
    room = room_for(PLAN, forecast_of(PLAN), free_bytes=500_000)
    assert room.cache_bytes < 0
    assert room.tokens_in_full == room.users == room.users_reading == 0


def test_a_context_that_is_not_told_is_that_of_the_engine() -> None:
    plan = replace(PLAN, context_length=0)
    assert room_for(plan, forecast_of(plan)).context == 32768


def test_the_free_memory_is_this_machines() -> None:
    assert room_for(PLAN, forecast_of(PLAN)).free_bytes > 0
