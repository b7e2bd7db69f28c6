"""Settings: what a field tells of itself, and what is refused by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.setting import Setting, check_settings, setting, settings_of


@dataclass(frozen=True)
class Kettle:
    litres: int = setting(1, "Water.", least=1, unit="LITRES")
    colour: str | None = setting(None, "Lid:", ("red", "blue"), default="none")


def test_a_field_tells_what_it_was_given() -> None:
    assert Kettle() == Kettle(1, None)
    assert settings_of(Kettle) == {
        "litres": Setting("Water.", least=1, unit="LITRES"),
        "colour": Setting("Lid:", ("red", "blue"), default="none"),
    }


def test_every_field_of_the_cache_config_is_a_setting() -> None:
    assert all(about.help for about in settings_of(KVCacheConfig).values())


def test_a_field_without_a_setting_is_a_programming_error() -> None:
    @dataclass(frozen=True)
    class Forgotten(Kettle):
        handle: int = 1

    with pytest.raises(TypeError, match=r"the field handle is not made with setting\(\)"):
        settings_of(Forgotten)


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"litres": 0}, "litres is 0, below 1", ""),
        ({"litres": 1.5}, "litres is 1.5, a float; it takes int", ""),
        ({"litres": True}, "litres is True, a bool; it takes int", ""),
        ({"colour": "rde"}, "colour 'rde' is not known", "Did you mean 'red'?"),
    ],
)
def test_what_a_field_does_not_take_is_refused(values: Any, message: str, hint: str) -> None:
    check_settings(Kettle(litres=2, colour="red"))
    with pytest.raises(ConfigError) as caught:
        check_settings(Kettle(**values))
    assert (caught.value.message, caught.value.hint) == (message, hint)
