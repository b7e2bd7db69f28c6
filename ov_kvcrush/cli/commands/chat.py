"""``ov-kvcrush chat``: a conversation at a terminal, or one answer without one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ov_kvcrush.cli.chat.session_file import SessionFile
from ov_kvcrush.cli.options.cache import cache_options
from ov_kvcrush.cli.options.generation import generation_options
from ov_kvcrush.cli.options.model import (
    ContextLength,
    DecodePrecision,
    Device,
    EngineName,
    ModelDir,
    ParseSpecial,
    PromptLookup,
    Properties,
    load_pipeline,
    parse_properties,
)
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.cli.output.json_value import print_json
from ov_kvcrush.cli.process import STDIN, describe_document, read_document, read_stdin
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, DeviceError, PromptError
from ov_kvcrush.precisions import AUTO

if TYPE_CHECKING:
    from ov_kvcrush.cli.chat.conversation import Conversation
    from ov_kvcrush.pipeline.chat import Chat
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
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
            metavar="TEXT",
            help="Answer this and leave; - is what is piped in, as without it.",
            show_default=False,
        ),
    ] = None,
    read: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Put this text file before the first message; - is what is piped in; repeatable.",
            show_default=False,
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
    decode_precision: DecodePrecision = AUTO,
    parse_special: ParseSpecial = False,
    context_length: ContextLength = None,
    prompt_lookup: PromptLookup = 0,
    verbose: Verbose = False,
    *,
    kv_cache_config: KVCacheConfig,
    generation: dict[str, Any],
) -> None:
    """Chat with an exported model; the conversation keeps its compressed KV cache.

    On a terminal: streams, /help shows the commands, Ctrl+C stops an answer. With --prompt, or
    where stdin is not a terminal: one answer on stdout, everything else on stderr. Stdin is read
    where neither --prompt nor --read says what to answer, or one of them is -. Exit codes: 0 done,
    1 unexpected failure, 2 a mistake in the input, 130 Ctrl+C, 141 nobody reads the answer.

    A model without a chat template continues the one text it is given.

    Settings that are not given are the model's (generation_config.json); an answer that nothing
    limits ends after 2,048 tokens.

    Examples:

    - `ov-kvcrush chat qwen3 --max-cache-size 1024 --value-cache-precision u4`

    - `ov-kvcrush chat qwen3 --system "Answer in one sentence." --temperature 0.7`

    - `ov-kvcrush chat qwen3 --read CHANGES.txt --prompt "What changed?" --json`

    - `git diff | ov-kvcrush chat qwen3 --read - --prompt "Write a commit message."`

    - `ov-kvcrush chat qwen3 --max-cache-size 1024 --session monday.safetensors`
    """
    with SessionFile(session, engine) as kept:
        message = _one_message(prompt, read or [])
        if as_json and message is None:
            raise ConfigError(
                "--json is for one answer, and this is a conversation at a terminal",
                "Give --prompt TEXT, or pipe the prompt in.",
            )
        documents = {describe_document(name): read_document(name) for name in read or []}
        pipeline = _load(
            model_dir,
            device,
            engine,
            kv_cache_config,
            parse_properties(properties or []),
            decode_precision,
            parse_special,
            context_length,
            prompt_lookup,
            ["ov_kvcrush.cli.chat.conversation", "ov_kvcrush.cli.chat.terminal"],
        )
        from ov_kvcrush.cli.chat.conversation import Conversation
        from ov_kvcrush.cli.chat.terminal import ChatTerminal

        chat = kept.load(pipeline, system)
        if pipeline.has_chat_template or not _is_one_text(message, system, session, chat):
            pipeline.check_chat_template()
        conversation = Conversation(pipeline, generation, system, chat)
        if pipeline.has_chat_template:
            answer = conversation.ask
            for name, text in documents.items():
                conversation.attach(name, text)
        else:
            answer = conversation.continue_text
            message = "\n\n".join([*documents.values(), message or ""])
        terminal = ChatTerminal(conversation)
        show = _show_nothing if as_json else terminal.note
        if not pipeline.has_chat_template:
            show("The model has no chat template: the prompt is read as it is, to be continued.")
        with kept.saved_at_end(conversation, show):
            if message is None:
                terminal.run(offers_saving=not kept.saves)
            elif as_json:
                print_json(_turn(conversation, answer(message)))
            else:
                terminal.show_turn(lambda *shown: answer(message, *shown))


def _one_message(prompt: str | None, read: list[str]) -> str | None:
    """What to answer without a conversation: ``prompt``, or what is piped in; None at a terminal.

    Raises:
        PromptError, ConfigError: there is nothing to answer, or stdin is wanted twice.
    """
    asks_stdin = prompt == STDIN or (prompt is None and not sys.stdin.isatty())
    if read.count(STDIN) + asks_stdin > 1:
        raise ConfigError(
            "what is piped in can be read once only",
            "Give --prompt TEXT for what --read - puts before it.",
        )
    if prompt is None and not asks_stdin:
        return None
    text = read_stdin() if asks_stdin else prompt or ""
    if not text.strip():
        if asks_stdin:
            raise PromptError(
                "nothing to answer: stdin is empty", "Pipe a prompt in, or give --prompt TEXT."
            )
        raise PromptError("the prompt is empty", "Give --prompt a text.")
    return text.strip()


def _load(model_dir: Path, device: str, *rest: Any) -> LLMPipeline:
    try:
        return load_pipeline(model_dir, device, *rest)
    except DeviceError as error:
        error.hint += " A question stands behind --prompt."
        raise


def _is_one_text(message: str | None, system: str, session: Path | None, chat: Chat | None) -> bool:
    """Whether ``message``, maybe behind a document, is all that there is to read, and to keep."""
    behind_nothing = session is None if chat is None else not chat.messages
    return message is not None and not system and behind_nothing


def _show_nothing(_: str) -> None:
    """Beside JSON nothing is said."""


def _turn(conversation: Conversation, results: DecodedResults) -> dict[str, Any]:
    return {
        "answer": results.texts[0],
        "finish_reason": results.finish_reasons[0].name.lower(),
        "metrics": results.metrics[0].to_dict(),
        "generation_config": conversation.describe_settings(),
        "config": conversation.pipeline.describe().to_dict(),
    }
