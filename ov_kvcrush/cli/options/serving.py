"""The flags of a server: one for each field of ``ServeSettings`` that a command line may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ov_kvcrush.cli.options.flags import optional, with_flags
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.serve.settings import ServeSettings

_WHERE, _WHO, _LIMITS, _CHATS = "Where it is", "Who may ask", "Limits", "Conversations"

API_KEY_FILE = "api_key_file"
"""The one flag that is not a field: what is in the file is."""


@dataclass(frozen=True)
class _Flag:
    """One of them.

    Attributes:
        flag: its spelling.
        kind: of its value.
        help: a sentence.
        panel: that the help shows it in.
        unit: shown in place of a value.
        default: what the field's default means, where that is not to be shown as it is.
    """

    flag: str
    kind: Any
    help: str
    panel: str
    unit: str | None = None
    default: str | None = None


_FLAGS = {
    "host": _Flag("--host", str, "Address to listen at.", _WHERE, "ADDRESS"),
    "port": _Flag("--port", int, "To listen at; 0 finds a free one.", _WHERE, "PORT"),
    "model_names": _Flag(
        "--model-name",
        list[str],
        "What requests call the model; repeatable, replies have the first.",
        _WHERE,
        "NAME",
        "the folder's name",
    ),
    "access_log": _Flag(
        "--access-log/--no-access-log",
        bool,
        "A line on stderr for each request, without its texts.",
        _WHERE,
    ),
    API_KEY_FILE: _Flag(
        "--api-key-file",
        Path,
        "Keys that may ask, one name:key or key a line; OV_KVCRUSH_API_KEY is one more.",
        _WHO,
        "FILE",
        "none is needed",
    ),
    "no_key": _Flag("--no-key", bool, "Listen for other machines without asking for a key.", _WHO),
    "allowed_hosts": _Flag(
        "--allow-host",
        list[str],
        "Name that requests may call this server by, beside localhost; repeatable.",
        _WHO,
        "NAME",
        "",
    ),
    "cors_origins": _Flag(
        "--cors-origin",
        list[str],
        "Whose pages may ask, such as http://localhost:3000; repeatable.",
        _WHO,
        "ORIGIN",
        "",
    ),
    "max_running": _Flag("--max-running", int, "Sequences that run at once.", _LIMITS, "NUMBER"),
    "max_waiting": _Flag(
        "--max-waiting",
        int,
        "Requests that may wait for their turn; more are answered with 429.",
        _LIMITS,
        "NUMBER",
    ),
    "max_per_key": _Flag(
        "--max-per-key",
        int,
        "Requests of one key at a time; 0 does not bound them.",
        _LIMITS,
        "NUMBER",
    ),
    "queue_seconds": _Flag(
        "--queue-timeout", float, "Until a request has its first token.", _LIMITS, "SECONDS"
    ),
    "request_seconds": _Flag(
        "--request-timeout",
        float,
        "Until it has its last; 0 does not bound it.",
        _LIMITS,
        "SECONDS",
    ),
    "drain_seconds": _Flag(
        "--drain-timeout",
        float,
        "That replies have to end in when the server is told to.",
        _LIMITS,
        "SECONDS",
    ),
    "max_answer_tokens": _Flag(
        "--max-answer-tokens", int, "Where a request says none.", _LIMITS, "TOKENS"
    ),
    "max_choices": _Flag("--max-choices", int, "Answers to one request.", _LIMITS, "NUMBER"),
    "max_stop_strings": _Flag("--max-stop-strings", int, "Of one request.", _LIMITS, "NUMBER"),
    "max_tools": _Flag("--max-tools", int, "Functions to call, of one request.", _LIMITS, "NUMBER"),
    "max_tool_bytes": _Flag("--max-tool-bytes", int, "Of them as JSON.", _LIMITS, "BYTES"),
    "max_messages": _Flag("--max-messages", int, "Of one conversation.", _LIMITS, "NUMBER"),
    "max_body_bytes": _Flag("--max-body-bytes", int, "Of one request.", _LIMITS, "BYTES"),
    "session_dir": _Flag(
        "--session-dir",
        Path,
        "Folder that keeps idle conversations; another server may go on from it.",
        _CHATS,
        "DIR",
        "memory alone",
    ),
    "max_sessions": _Flag("--max-sessions", int, "Session keys known at a time.", _CHATS, "NUMBER"),
    "session_seconds": _Flag(
        "--session-timeout", float, "Until an idle one is forgotten.", _CHATS, "SECONDS"
    ),
}


def read_serve_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``ServeSettings``, and ``api_key_file``, of the flags ``given`` by name.

    Raises:
        ConfigError: a number is not one that a server can have.
    """
    port = given.get("port", 0)
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port {port} is not a port", "Give one from 0 to 65535.")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}


def _declare(name: str, about: _Flag, defaults: Mapping[str, Any]) -> Any:
    shown = about.default
    if shown is None and about.kind is not bool:
        value = defaults[name]
        shown = f"{value:,}" if isinstance(value, (int, float)) and name != "port" else str(value)
        shown = shown.removesuffix(".0")
    help_text = f"{about.help} (default {shown})" if shown else about.help
    option = typer.Option(
        about.flag,
        help=help_text,
        metavar=about.unit,
        rich_help_panel=about.panel,
        show_default=False,
    )
    return optional(about.kind, option)


def _declare_flags() -> dict[str, Any]:
    defaults = {field.name: field.default for field in dataclasses.fields(ServeSettings)}
    return {name: _declare(name, about, defaults) for name, about in _FLAGS.items()}


SPELLING = {name: about.flag.partition("/")[0] for name, about in _FLAGS.items()}
"""Flags by the names that errors have for them."""

serve_options = with_flags("given", _declare_flags(), read_serve_options, SPELLING)
"""Decorates a command that takes ``given``: its command line gets the server's flags."""
