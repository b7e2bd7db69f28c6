"""What openvino_genai's eviction makes of our settings, and what it cannot obey."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, OVKVCrushWarning, UnsupportedError
from ov_kvcrush.runtime.genai.eviction import (
    GenaiEviction,
    in_place_of_defaults,
    tell_what_gave_way,
)
from tests.support.engines import GENAI_EVICTING

PAGE = 32


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_start_important_representatives_and_recent_make_the_total_asked_for(share: float) -> None:
    config = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), "representative_share": share})
    eviction = GenaiEviction.of(config, PAGE)
    assert eviction.start == 32
    assert eviction.recent == 64
    middle = 256 - 32 - 64
    assert eviction.important + eviction.representatives == middle
    assert eviction.representatives == round(share * middle / PAGE) * PAGE
    genai = eviction.to_genai()
    assert genai.get_max_cache_size() + genai.kvcrush_config.budget * PAGE == 256


def test_representatives_none_leaves_the_whole_middle_to_importance() -> None:
    config = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), "representatives": "none"})
    genai = GenaiEviction.of(config, PAGE).to_genai()
    assert genai.kvcrush_config.budget == 0
    assert genai.get_max_cache_size() == 256


@pytest.mark.parametrize(
    "change",
    [
        {"start_size": 0},
        {"representatives": "bucket_distinct"},
        {"representative_share": 1.0},
        {"kernel_size": 5},
        {"signature_heads": "query"},
        {"signature_fraction": 0.3},
        {"decode_slack": 64},
    ],
    ids=str,
)
def test_what_its_eviction_cannot_obey_is_refused(change: dict[str, Any]) -> None:
    config = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), **change})
    with pytest.raises(UnsupportedError, match=next(iter(change))) as refused:
        GenaiEviction.of(config, PAGE)
    assert refused.value.hint


def test_all_that_is_refused_is_said_at_once() -> None:
    change = {"kernel_size": 5, "decode_slack": 64}
    with pytest.raises(UnsupportedError, match=r"kernel_size 5.* decode_slack 64") as refused:
        GenaiEviction.of(KVCacheConfig(**{**GENAI_EVICTING.to_dict(), **change}), PAGE)
    hint = dict(part.split("=") for part in refused.value.hint[5:].split(";")[0].split(", "))
    followed = {**change, **{name: int(value) for name, value in hint.items()}}
    assert GenaiEviction.of(KVCacheConfig(**{**GENAI_EVICTING.to_dict(), **followed}), PAGE)


def test_defaults_give_way_to_its_own_values_in_one_warning() -> None:
    asked = KVCacheConfig(max_cache_size=256)
    config = in_place_of_defaults(asked, PAGE)
    assert GenaiEviction.of(config, PAGE).representatives == 64
    with pytest.warns(OVKVCrushWarning, match="granularity page, representatives rank$") as told:
        tell_what_gave_way(asked, config)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_what_gave_way(config, in_place_of_defaults(config, PAGE))


def test_a_setting_that_was_given_does_not_give_way() -> None:
    given = KVCacheConfig(max_cache_size=256, representatives="even")
    with pytest.raises(UnsupportedError, match="representatives 'even'"):
        GenaiEviction.of(in_place_of_defaults(given, PAGE), PAGE)


def test_what_it_does_anyway_may_be_asked_for() -> None:
    config = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), "kernel_size": 7, "decode_slack": PAGE})
    assert GenaiEviction.of(config, PAGE)


@pytest.mark.parametrize("head_budgets", ["auto", "off"])
def test_every_head_has_the_same_whatever_is_asked_for(head_budgets: str) -> None:
    asked = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), "head_budgets": head_budgets})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_what_gave_way(asked, in_place_of_defaults(asked, PAGE))
    assert GenaiEviction.of(asked, PAGE) == GenaiEviction.of(GENAI_EVICTING, PAGE)


@pytest.mark.parametrize("name", ["max_cache_size", "start_size", "recent_size"])
def test_sizes_that_are_no_multiples_of_the_page_are_refused(name: str) -> None:
    config = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), name: getattr(GENAI_EVICTING, name) + 8})
    with pytest.raises(ConfigError, match=f"{name} .* multiple of the page size 32") as refused:
        GenaiEviction.of(config, PAGE)
    size = getattr(GENAI_EVICTING, name)
    assert refused.value.hint == f"Use {size} or {size + PAGE}."


def test_only_sizes_that_leave_something_to_choose_are_suggested() -> None:
    config = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), "max_cache_size": 100})
    with pytest.raises(ConfigError) as refused:
        GenaiEviction.of(config, PAGE)
    assert refused.value.hint == "Use 128."


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"representative_share": 1.0}, "Lower representative_share."),
        ({"max_cache_size": 0, "kv_budget_mb": 4.0}, "max_cache_size in place of kv_budget_mb"),
        ({"prefill_representative_share": 0.5}, "Give no prefill_representative_share"),
    ],
    ids=str,
)
def test_hints_name_what_there_is_to_do(change: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        GenaiEviction.of(KVCacheConfig(**{**GENAI_EVICTING.to_dict(), **change}), PAGE)
    assert hint in refused.value.hint
