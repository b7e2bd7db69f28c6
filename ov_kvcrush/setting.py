"""A setting: a field that tells what it is for and what it may be, to checks and command lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from ov_kvcrush.errors import ConfigError, did_you_mean

T = TypeVar("T")

_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """What is told of a field beside its type and its default.

    Attributes:
        help: a sentence; it ends in a colon where the choices follow.
        choices: the words it may be; empty where it is not a word.
        least: the smallest number it may be; None where the field is checked elsewhere.
        unit: shown in place of a value.
        default: what the field's default means, where that is None.
        flag: its spelling on a command line, where that is not the field's.
        counts_always: without eviction too.
    """

    help: str
    choices: Collection[str] = ()
    least: int | None = None
    unit: str | None = None
    default: str | None = None
    flag: str | None = None
    counts_always: bool = False


def setting(
    value: T,
    help: str,
    choices: Collection[str] = (),
    *,
    least: int | None = None,
    unit: str | None = None,
    default: str | None = None,
    flag: str | None = None,
    counts_always: bool = False,
) -> T:
    """A dataclass field whose default is ``value``; the rest are the arguments of ``Setting``."""
    about = Setting(help, choices, least, unit, default, flag, counts_always)
    return dataclasses.field(default=value, metadata={_KEY: about})


def settings_of(config: Any) -> dict[str, Setting]:
    """By field of a dataclass, or of one of its objects, what its :func:`setting` says.

    Raises:
        TypeError: a field was made without it.
    """
    fields = dataclasses.fields(config)
    for field in fields:
        if _KEY not in field.metadata:
            raise TypeError(f"the field {field.name} is not made with setting()")
    return {field.name: field.metadata[_KEY] for field in fields}


def check_settings(config: Any) -> None:
    """Refuse a value of another type than its field's, an unknown word, a number below the least.

    Raises:
        ConfigError: names the field.
    """
    _check_types(config)
    for name, about in settings_of(config).items():
        value = getattr(config, name)
        if about.least is not None and value is not None and value < about.least:
            raise ConfigError(f"{name} is {value}, below {about.least}")
        if about.choices and isinstance(value, str) and value not in about.choices:
            raise ConfigError(f"{name} {value!r} is not known", did_you_mean(value, about.choices))


def _check_types(config: Any) -> None:
    kinds: dict[Any, tuple[type, ...]] = {
        bool: (bool,),
        int: (int,),
        float: (int, float),
        str: (str,),
        str | None: (str, type(None)),
        str | tuple[float, ...]: (str, tuple),
        int | None: (int, type(None)),
        float | None: (int, float, type(None)),
    }
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        # To Python a bool is an int.
        if isinstance(value, bool) != (hint is bool) or not isinstance(value, kinds[hint]):
            wanted = getattr(hint, "__name__", str(hint))
            raise ConfigError(f"{name} is {value!r}, a {type(value).__name__}; it takes {wanted}")
