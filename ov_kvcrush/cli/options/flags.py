"""A command's flags from a table: one declaration for all commands that have them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, cast

Command = TypeVar("Command", bound=Callable[..., None])


def with_flags(
    parameter: str, flags: Mapping[str, Any], read: Callable[[dict[str, Any]], Any]
) -> Callable[[Command], Command]:
    """Decorate a command that takes ``parameter`` so that its command line has ``flags`` instead.

    Args:
        parameter: the command's keyword-only argument that gets what ``read`` makes.
        flags: by name, what typer wants: ``Annotated[type, typer.Option(...)]``.
        read: makes the argument of the flags that were given, by name.
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
            command(**values, **{parameter: read(given)})

        # what typer reads in place of the function's own
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return cast(Command, run)

    return decorate


def optional(kind: Any, option: Any) -> Any:
    """The annotation of a flag of type ``kind`` that may be left out."""
    return Annotated[kind | None, option]
