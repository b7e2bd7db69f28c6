"""The command ``ov-kvcrush``: finds the subcommand, and turns what goes wrong into exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

from ov_kvcrush.cli.early_reading import begin_reading_of
from ov_kvcrush.cli.output.errors import (
    is_verbose,
    notes_on_stderr,
    print_error,
    set_verbose,
)
from ov_kvcrush.cli.process import (
    check_arguments,
    check_environment,
    is_folder_gone,
    prepare_streams,
)
from ov_kvcrush.errors import ConfigError, OVKVCrushError, did_you_mean

# Subcommand -> the first sentence of its help, in the order of --help. The module of its name in
# `commands` (with _ for -) has it, as a typer app named `app`. All of them together take longer to
# import than Python to start, so --help imports none, and none imports what only its run needs.
COMMANDS = {
    "export": "Export a Hugging Face model or a GGUF file: OpenVINO model, tokenizer and KV plan.",
    "calibrate": "Measure an OpenVINO model for its KV cache: which heads look back, and a gate.",
    "chat": "Chat with an exported model; the conversation keeps its compressed KV cache.",
    "crush": "Read a document once, crush its KV cache to a budget, and keep that in a file.",
    "serve": "Serve a model to OpenAI's clients, many requests at once, with one bounded KV cache.",
    "ovms-config": "Write what OpenVINO Model Server needs to serve a model with a bounded cache.",
    "eval": "Compare policies, budgets and precisions of the KV cache with the full one.",
    "inspect": "Show what a model, a KV plan or a session file is. Nothing is compiled or loaded.",
    "bench": "Measure a model's speed and memory, taking turns with openvino_genai.",
}

EXIT_UNEXPECTED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130


class _Commands(TyperGroup):
    """The subcommands of ``COMMANDS``, each imported when it is to run or to tell of itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """What the list of commands shows of the one called ``name``."""
        return click.Command(name, help=COMMANDS[name]) if name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS:
            raise ConfigError(f"no such command: {name}", did_you_mean(name, COMMANDS))
        begin_reading_of(name, args[1:])
        module = import_module(f"{__name__}.commands.{name.replace('-', '_')}")
        return name, get_command(module.app), args[1:]


app = typer.Typer(cls=_Commands, add_completion=False, invoke_without_command=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ov-kvcrush {version('ov-kvcrush')} (OpenVINO {version('openvino')})")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """KVCrush for OpenVINO: a small KV cache whose answers stay right.

    Each command has its own help with examples, for instance: ov-kvcrush export --help
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code.

    0 done, 1 unexpected failure, 2 something the user can change, 130 Ctrl+C, 141 nobody reads
    stdout any more. Errors are printed on stderr; only ``-v`` shows a traceback.
    """
    set_verbose(False)
    try:
        check_arguments(sys.argv[1:] if arguments is None else arguments)
        check_environment()
        with notes_on_stderr():
            outcome = app(args=arguments, prog_name="ov-kvcrush", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        print_error(*_usage_error(error))
        return EXIT_USER_ERROR
    except Exception as error:
        if is_verbose():
            traceback.print_exc()
        return EXIT_INTERRUPTED if _comes_of_ctrl_c(error) else _tell(error)


def _comes_of_ctrl_c(error: BaseException | None) -> bool:
    """Whether it is what a library made of a Ctrl+C: while it is imported, for instance."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _tell(error: Exception) -> int:
    """Say what went wrong on stderr; the exit code."""
    if isinstance(error, OVKVCrushError):
        print_error(error.message, error.hint)
        return EXIT_USER_ERROR
    if is_folder_gone():
        print_error("the current folder was deleted", "Change to one that exists: cd")
        return EXIT_USER_ERROR
    reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    print_error(
        f"unexpected {reason}",
        "" if is_verbose() else "This should not happen. Run with -v for the traceback.",
    )
    return EXIT_UNEXPECTED


def main() -> None:
    """Run the process's own command line, and leave Python with its exit code."""
    prepare_streams()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # SIGHUP: the terminal was closed, or its connection lost. nohup asks to ignore that.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminate)
    code = run()
    try:
        sys.stdout.flush()
    except OVKVCrushError as error:
        print_error(error.message, error.hint)
        code = EXIT_USER_ERROR
    sys.exit(code)


def _terminate(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that commands remove their temporary folders.
    raise SystemExit(128 + number)


def _usage_error(error: click.ClickException) -> tuple[str, str]:
    message = error.format_message()
    close = getattr(error, "possibilities", None)
    if close:
        # click words its suggestions differently from release to release
        return message.split(" Did you mean")[0].split(" (")[0], f"Did you mean {close[0]!r}?"
    context = getattr(error, "ctx", None)
    return message, f"See: {context.command_path} --help" if context else ""
