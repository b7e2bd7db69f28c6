"""The commands of a chat that name a file: ``/read``, ``/save`` and ``/load``."""

from __future__ import annotations

import os

from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.cli.chat.conversation_file import read_conversation, write_conversation
from ov_kvcrush.cli.chat.screen import Screen
from ov_kvcrush.cli.chat.session_file import count_messages, is_session_name, load_chat, save_chat
from ov_kvcrush.cli.chat.typed_path import read_path, read_path_and_rest
from ov_kvcrush.errors import OVKVCrushError, PromptError
from ov_kvcrush.files import read_text


def read(screen: Screen, argument: str) -> None:
    """Attach the file that ``argument`` begins with, and ask what follows; without one, none."""
    conversation = screen.conversation
    if not argument:
        conversation.attached = []
        screen.note("Nothing is attached to your next message.")
        return
    path, question = read_path_and_rest(argument)
    if os.path.exists(path) and not os.path.isfile(path):
        raise OVKVCrushError(f"{path} is not a file")  # and may never end, as /dev/zero
    text = read_text(path).strip()
    if not text:
        raise PromptError(f"{path} is empty")
    tokens = conversation.attach(str(path), text).num_tokens
    if question:
        screen.note(f"{path}: {tokens:,} tokens.")
        screen.show_turn(lambda *shown: conversation.ask(question, *shown))
    else:
        screen.note(f"{path}: {tokens:,} tokens, sent with your next message. Now ask about it.")


def name_attached(conversation: Conversation) -> str:
    """What the next message of ``conversation`` begins with."""
    return ", ".join(f"{one.name} ({one.num_tokens:,} tokens)" for one in conversation.attached)


def save(screen: Screen, file: str) -> None:
    """Save the conversation to ``file``, with its cache if that is named like a session."""
    path = read_path(file)
    conversation = screen.conversation
    if is_session_name(path):
        note = save_chat(conversation, path)
    else:
        chat = conversation.chat
        write_conversation(path, chat.messages, conversation.settings, chat.files)
        note = f"Saved {count_messages(conversation.chat)} to {path}. The KV cache is not saved."
    conversation.note_saved()
    screen.note(note)


def load(screen: Screen, file: str) -> None:
    """Go on with the conversation in ``file``."""
    path = read_path(file)
    if is_session_name(path):
        chat, note = load_chat(screen.conversation.pipeline, path)
        screen.conversation.replace_chat(chat)
        screen.note(note)
        return
    messages, settings = read_conversation(path, screen.conversation.chat.files)
    screen.conversation.restore(messages, settings)
    screen.note(
        f"Loaded {count_messages(screen.conversation.chat)} from {path}. "
        "The next turn reads the history anew."
    )
