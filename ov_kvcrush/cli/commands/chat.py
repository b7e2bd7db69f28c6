"""``ov-kvcrush chat``: a conversation at a terminal, or one answer without one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ov_kvcrush.cli.chat.session_file import SessionFile, check_session_file
from ov_kvcrush.cli.options.cache import cache_options
from ov_kvcrush.cli.options.generation import generation_options
from ov_kvcrush.cli.options.model import (
    DecodePrecision,
    Device,
    EngineName,
    ModelDir,
    ParseSpecial,
    Properties,
    load_pipeline,
    parse_properties,
)
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from ov_kvcrush.cli.chat.conversation import Conversation
    from ov_kvcrush.pipeline.results import DecodedResults

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
@generation_options
@cache_options
def chat(
    model_dir: ModelDir,
    device: Device = "CPU",
    system: Annotated[
        str, typer.Option(metavar="TEXT", help="System message.", show_default=False)
    ] = "",
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Answer this and leave; what is piped in comes before it."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="The one answer as a JSON object: answer, finish_reason, metrics, "
            "generation_config, config. With --prompt or piped input.",
        ),
    ] = False,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Go on from this file (*.safetensors) if it exists, and save to it when the chat "
            "ends; or begin behind the document that ov-kvcrush crush left in it.",
            show_default=False,
        ),
    ] = None,
    engine: EngineName = "paged",
    properties: Properties = None,
    decode_precision: DecodePrecision = None,
    parse_special: ParseSpecial = False,
    verbose: Verbose = False,
    *,
    kv_cache_config: KVCacheConfig,
    generation: dict[str, Any],
) -> None:
    """Chat with an exported model; the conversation keeps its compressed KV cache.

    On a terminal: streams, /help shows the commands, Ctrl+C stops an answer. With --prompt, or
    where stdin is not a terminal: one answer on stdout, everything else on stderr. Exit codes:
    0 done, 1 unexpected failure, 2 a mistake in the input, 130 Ctrl+C.

    A model without a chat template continues the one text it is given.

    Settings that are not given are the model's (generation_config.json); an answer that nothing
    limits ends after 2,048 tokens.

    Examples:

    - `ov-kvcrush chat qwen3 --max-cache-size 1024 --value-cache-precision u4`

    - `ov-kvcrush chat qwen3 --system "Answer in one sentence." --temperature 0.7`

    - `ov-kvcrush chat qwen3 --prompt "What changed?" --json < CHANGES.txt`

    - `ov-kvcrush chat qwen3 --max-cache-size 1024 --session monday.safetensors`
    """
    if session is not None:
        check_session_file(session, engine)
    message = _one_message(prompt)
    if as_json and message is None:
        raise ConfigError(
            "--json is for one answer, and this is a conversation at a terminal",
            "Give --prompt TEXT, or pipe the prompt in.",
        )
    pipeline = load_pipeline(
        model_dir,
        device,
        engine,
        kv_cache_config,
        parse_properties(properties or []),
        decode_precision,
        parse_special,
    )
    from ov_kvcrush.cli.chat.conversation import Conversation
    from ov_kvcrush.cli.chat.terminal import ChatTerminal

    kept = SessionFile(session, pipeline, system)
    if pipeline.has_chat_template or not _is_one_text(message, system, session, kept):
        pipeline.check_chat_template()
    conversation = Conversation(pipeline, generation, system, kept.chat)
    answer = conversation.ask if pipeline.has_chat_template else conversation.continue_text
    terminal = ChatTerminal(conversation)
    show = _show_nothing if as_json else terminal.note
    if not pipeline.has_chat_template:
        show("The model has no chat template: the prompt is read as it is, to be continued.")
    try:
        with kept.saved_at_end(conversation, show):
            if message is None:
                terminal.run(offers_saving=not kept.saves)
            elif as_json:
                _print_json(conversation, answer(message))
            else:
                terminal.show_turn(lambda *shown: answer(message, *shown))
    except BrokenPipeError:
        # The reader, head for instance, has gone. Python flushes stdout once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


def _one_message(prompt: str | None) -> str | None:
    """What to answer without a conversation: piped text, then ``prompt``; None at a terminal."""
    if sys.stdin.isatty():
        if prompt is not None and not prompt.strip():
            raise PromptError("the prompt is empty", "Give --prompt a text.")
        return prompt
    try:
        piped = sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise PromptError("what is piped in is not text in UTF-8") from error
    parts = [part for part in (piped, prompt) if part and part.strip()]
    if not parts:
        raise PromptError(
            "nothing to answer: stdin is empty", "Pipe a prompt in, or give --prompt TEXT."
        )
    return "\n\n".join(parts)


def _is_one_text(message: str | None, system: str, session: Path | None, kept: SessionFile) -> bool:
    """Whether ``message``, maybe behind a document, is all that there is to read, and to keep."""
    behind_nothing = session is None if kept.chat is None else not kept.chat.messages
    return message is not None and not system and behind_nothing


def _show_nothing(_: str) -> None:
    """Beside JSON nothing is said."""


def _print_json(conversation: Conversation, results: DecodedResults) -> None:
    turn = {
        "answer": results.texts[0],
        "finish_reason": results.finish_reasons[0].name.lower(),
        "metrics": results.metrics[0].to_dict(),
        "generation_config": conversation.describe_settings(),
        "config": conversation.pipeline.describe().to_dict(),
    }
    print(json.dumps(turn))
