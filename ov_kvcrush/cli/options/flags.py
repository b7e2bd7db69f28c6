"""A command's flags from a table: one declaration for all commands that have them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, cast

from ov_kvcrush.errors import OVKVCrushError

Command = TypeVar("Command", bound=Callable[..., None])


def with_flags(
    parameter: str,
    flags: Mapping[str, Any],
    read: Callable[[dict[str, Any]], Any],
    spelling: Mapping[str, str] | None = None,
) -> Callable[[Command], Command]:
    """Decorate a command that takes ``parameter`` so that its command line has ``flags`` instead.

    Args:
        parameter: the command's keyword-only argument that gets what ``read`` makes.
        flags: by name, what typer wants: ``Annotated[type, typer.Option(...)]``.
        read: makes the argument of the flags that were given, by name.
        spelling: flags by the names that Python has for them, for the command's errors.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != parameter]
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
            for name, annotation in flags.items()
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in flags}
            # typer gives an empty list for a repeatable flag that was not given
            given = {name: value for name, value in given.items() if value not in (None, [])}
            try:
                command(**values, **{parameter: read(given)})
            except OVKVCrushError as error:
                error.message = spell_flags(error.message, spelling or {})
                error.hint = spell_flags(error.hint, spelling or {})
                raise

        # what typer reads in place of the function's own
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return cast(Command, run)

    return decorate


def optional(kind: Any, option: Any) -> Any:
    """The annotation of a flag of type ``kind`` that may be left out."""
    return Annotated[kind | None, option]


def spell_flags(text: str, spelling: Mapping[str, str]) -> str:
    """``text`` about settings by name, such as ``top_k is -1`` or ``engine='paged'``, with flags.

    A name that is an English word too counts only before a value.
    """
    for name, flag in spelling.items():
        off = flag.replace("--", "--no-", 1)
        text = re.sub(rf"(?<![\w-]){name}=True\b", flag, text)
        text = re.sub(rf"(?<![\w-]){name}=False\b", off, text)
        text = re.sub(rf"(?<![\w-]){name}='([^']*)'", rf"{flag} \1", text)
        text = re.sub(rf"(?<![\w-]){name}=(?=\w)", f"{flag} ", text)
        value = "" if "_" in name else r"(?= (is )?['\d-])"
        text = re.sub(rf"(?<![\w-]){name}\b(?!=){value}", flag, text)
    return text
