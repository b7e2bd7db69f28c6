"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ov_kvcrush.cli.chat import file_commands
from ov_kvcrush.cli.chat.screen import Screen
from ov_kvcrush.cli.options.generation import imply_sampling
from ov_kvcrush.cli.output.stats_line import megabytes
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, OVKVCrushError, did_you_mean
from ov_kvcrush.files import parse_json


class LeaveChat(Exception):  # noqa: N818  it is not an error
    """The user wants to go."""


@dataclass(frozen=True)
class SlashCommand:
    """What a command takes, what it is for, and what it does.

    Attributes:
        argument: as the help shows it; in brackets if it may be left out, empty if there is none.
        help: one line.
        run: screen, argument -> None.
    """

    argument: str
    help: str
    run: Callable[[Screen, str], None]


def is_command(text: str) -> bool:
    """Whether ``text`` is for the chat and not for the model.

    It begins with a slash then. Of several lines, which somebody has pasted, it has to begin with
    the name of a command.
    """
    words = text.split(maxsplit=1)
    if not words or not words[0].startswith("/"):
        return False
    return "\n" not in text.strip() or words[0] in SLASH_COMMANDS


def run_command(screen: Screen, line: str) -> None:
    """Do what ``line``, which begins with a slash, says.

    Raises:
        OVKVCrushError: no such command, its argument is missing or too much, or what it says.
        LeaveChat: it was /exit.
    """
    name, argument = [*line.strip().split(maxsplit=1), ""][:2]
    command = SLASH_COMMANDS.get(name)
    if command is None:
        raise OVKVCrushError(
            f"unknown command {name}",
            f'{did_you_mean(name, SLASH_COMMANDS)} Put a message that begins with / between """.',
        )
    is_optional = command.argument.startswith("[")
    if (argument and not command.argument) or (
        command.argument and not argument and not is_optional
    ):
        raise OVKVCrushError(f"usage: {name} {command.argument}".rstrip())
    command.run(screen, argument)


def _help(screen: Screen, _: str) -> None:
    usages = {name: f"{name} {command.argument}" for name, command in SLASH_COMMANDS.items()}
    width = max(map(len, usages.values()))
    lines = [f"{usages[name]:<{width}}  {command.help}" for name, command in SLASH_COMMANDS.items()]
    lines += [
        f"{chr(34) * 3:<{width}}  Begins a message of several lines; a second one ends it.",
        f"{'Ctrl+C':<{width}}  Stops an answer; at the prompt it drops what was typed.",
        f"{'Ctrl+D':<{width}}  Leaves, as Ctrl+C twice does.",
    ]
    screen.note("\n".join(lines))


def _exit(screen: Screen, _: str) -> None:
    raise LeaveChat


def _clear(screen: Screen, _: str) -> None:
    screen.conversation.clear()
    kept = " The system message stays." if screen.conversation.system_message else ""
    screen.note(f"Conversation and KV cache are empty.{kept}")


def _regen(screen: Screen, _: str) -> None:
    conversation = screen.conversation
    screen.show_turn(conversation.ask_again)
    if not conversation.generation_config.do_sample:
        screen.note("Without sampling the answer is always the same: /set do_sample true")


def _system(screen: Screen, text: str) -> None:
    chat = screen.conversation.chat
    chat.set_system_message(text)
    note = "System message set." if text else "System message removed."
    had_turns = any(m["role"] != "system" for m in chat.messages)
    screen.note(note + (" The next turn reads the conversation anew." if had_turns else ""))


def _set(screen: Screen, argument: str) -> None:
    name, text = [*argument.split(maxsplit=1), ""][:2]
    # Who sets a seed here means the sampler's, which the error for unknown names suggests.
    if name in {field.name for field in dataclasses.fields(KVCacheConfig)} - {"seed"}:
        raise ConfigError(
            f"{name} is fixed when the model is loaded",
            f"Start the chat again with --{name.replace('_', '-')}.",
        )
    if not text:
        raise OVKVCrushError("usage: /set NAME VALUE")
    changes = {name: _value(text)}
    implied = imply_sampling(changes)
    if implied.get("do_sample") != screen.conversation.generation_config.do_sample:
        changes = implied
    screen.conversation.change_settings(changes)
    # What is not served may be set to its default, and is not among the settings then.
    current = {**changes, **screen.conversation.describe_settings()}
    screen.note(", ".join(f"{name} = {json.dumps(current[name])}" for name in changes))


def _show(screen: Screen, _: str) -> None:
    conversation = screen.conversation
    description = conversation.pipeline.describe().to_dict()
    cache = description.pop("kv_cache_config")
    settings = conversation.describe_settings()
    seed = settings["rng_seed"]  # no number to read, but one to type again
    settings["rng_seed"] = "drawn for each answer" if seed is None else str(seed)
    use = conversation.pipeline.get_metrics()["kv_cache"]
    turns = sum(m["role"] == "assistant" for m in conversation.chat.messages)
    talk = {"turns": turns, "system_message": conversation.system_message}
    if conversation.attached:
        talk["attached"] = file_commands.name_attached(conversation)
    sections = {
        "Conversation": talk,
        "Generation": settings,
        "Engine": description,
        "KV cache": cache,
        "KV cache now": {name: megabytes(value) for name, value in use.items()},
    }
    screen.note("\n".join(_section(title, rows) for title, rows in sections.items()))


SLASH_COMMANDS: Mapping[str, SlashCommand] = {
    "/help": SlashCommand("", "Shows this.", _help),
    "/exit": SlashCommand("", "Leaves the chat.", _exit),
    "/clear": SlashCommand("", "Forgets the conversation and frees its KV cache.", _clear),
    "/regen": SlashCommand("", "Answers the last message again.", _regen),
    "/system": SlashCommand(
        "[TEXT]", "Sets the system message; without TEXT there is none.", _system
    ),
    "/set": SlashCommand("NAME VALUE", "Changes a generation setting; /show lists them.", _set),
    "/show": SlashCommand("", "Shows settings, engine, KV cache and its use.", _show),
    "/read": SlashCommand(
        "[FILE [QUESTION]]",
        "Puts a text file before your next message; without FILE there is none.",
        file_commands.read,
    ),
    "/save": SlashCommand(
        "FILE",
        "Saves as JSON with settings; as .safetensors with the KV cache.",
        file_commands.save,
    ),
    "/load": SlashCommand(
        "FILE", "Continues what was saved; .safetensors with its KV cache.", file_commands.load
    ),
}


def _value(text: str) -> Any:
    """What ``text`` says as JSON, in any case for true and false; else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return parse_json(text)
    except ValueError:
        return text


def _section(title: str, rows: Mapping[str, Any]) -> str:
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:<{width}}  {_shown(v)}" for name, v in rows.items())])


def _shown(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,}" if type(value) is int else json.dumps(value)
