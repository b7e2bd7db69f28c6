"""``ov-kvcrush serve``: OpenAI's API over HTTP, with a bounded KV cache behind it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ov_kvcrush.cli.options.cache import cache_options
from ov_kvcrush.cli.options.model import (
    ContextLength,
    DecodePrecision,
    Device,
    EngineName,
    ModelDir,
    ParseSpecial,
    PromptLookup,
    Properties,
    parse_properties,
)
from ov_kvcrush.cli.options.replicas import ReplicaCounts, replica_options, replica_settings
from ov_kvcrush.cli.options.serving import API_KEY_FILE, serve_options
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.model_folder import require_graph
from ov_kvcrush.precisions import AUTO
from ov_kvcrush.serve.chat_folder import make_chat_folder
from ov_kvcrush.serve.settings import DEFAULT_CHUNK, ServeSettings
from ov_kvcrush.serve.threads import THREADS, with_threads

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_SERVERS = ("fastapi", "uvicorn", "prometheus_client")
# Ray alone is not enough: what Serve needs more is an extra of its own.
_RAYS = ("ray", "aiohttp", "aiohttp_cors", "colorful", "grpc", "opencensus", "smart_open")


@app.command()
@cache_options
@serve_options
@replica_options
def serve(
    model_dir: ModelDir,
    device: Device = "CPU",
    chunk: Annotated[
        int,
        typer.Option(
            metavar="TOKENS",
            help="Of one step: how long a short request waits beside a long prompt, and how soon "
            "a request that nobody waits for any more has ended.",
            min=1,
        ),
    ] = DEFAULT_CHUNK,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Threads that compute, of each replica (default as many as there are cores, "
            "shared out among replicas).",
            show_default=False,
            min=1,
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
    given: dict[str, Any],
    replicas: ReplicaCounts | None,
) -> None:
    """Serve a model to OpenAI's clients, many requests at once, with one bounded KV cache.

    Chats, completions, models under /v1 (and /v3), /tokenize, /health, /ready, /metrics, and a page
    at /. It listens to this machine alone unless --host says otherwise. Ctrl+C and SIGTERM let what
    is being answered end; a second one ends at once.

    Examples:

    - `ov-kvcrush serve qwen3 --max-cache-size 1024`

    - `ov-kvcrush serve qwen3 --kv-budget-mb 200 --session-dir chats --model-name qwen3 --port 8080`

    - `ov-kvcrush serve qwen3 --host 0.0.0.0 --api-key-file keys.txt --max-cache-size 1024`

    - `ov-kvcrush serve qwen3 --ray --replicas 2 --threads 8 --session-dir chats`
    """
    folder = require_graph(model_dir).parent
    settings = _settings(folder, given)
    if settings.session_dir is not None:
        make_chat_folder(settings.session_dir, engine)
    many = None if replicas is None else replica_settings(replicas, threads, settings.port)
    plugin = parse_properties(properties or [])
    if threads is not None and THREADS in plugin:
        raise ConfigError(
            f"--threads and --property {THREADS} say the same thing twice", "Give one of them."
        )
    if many is not None and THREADS in plugin:
        raise ConfigError(
            f"--property {THREADS} says nothing to Ray, which shares processors out",
            "Give --threads, which says it to both.",
        )
    plugin = with_threads(plugin, many.threads if many else threads)
    run = _server()
    if many is not None:
        run = partial(_replicas(), replicas=many)
        # Replicas may stand in another folder.
        model_dir = model_dir.absolute()
        if settings.session_dir is not None:
            settings = replace(settings, session_dir=settings.session_dir.absolute())

    def load() -> LLMPipeline:
        from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

        return LLMPipeline(
            model_dir,
            device=device,
            config=plugin,
            kv_cache_config=kv_cache_config,
            engine=engine,
            decode_precision=decode_precision,
            parse_special=parse_special,
            context_length=context_length,
            prompt_lookup=prompt_lookup,
            max_num_batched_tokens=chunk,
            max_num_seqs=settings.max_running,
        )

    run(settings, load)


def _settings(folder: Path, given: dict[str, Any]) -> ServeSettings:
    from ov_kvcrush.serve.keys import read_keys

    arguments = dict(given)
    arguments.setdefault("model_names", (folder.resolve().name,))
    keys = read_keys(arguments.pop(API_KEY_FILE, None), os.environ)
    return ServeSettings(**arguments, keys=keys)


def _server() -> Any:
    """``ov_kvcrush.serve.server.run``.

    Raises:
        OVKVCrushError: the libraries it needs are not installed.
    """
    with _told_what_is_missing("a server", "serve", _SERVERS):
        from ov_kvcrush.serve.server import run
    return run


def _replicas() -> Any:
    """``ov_kvcrush.serve.replicas.running.run``.

    Raises:
        OVKVCrushError: the libraries it needs are not installed.
    """
    _server()
    with _told_what_is_missing("--ray", "ray", _RAYS):
        from ov_kvcrush.serve.replicas.running import run
    return run


@contextmanager
def _told_what_is_missing(who: str, extra: str, libraries: Collection[str]) -> Iterator[None]:
    """Errors of imports in the block, where a library of ``extra`` is not there, as our own."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in libraries:
            raise
        raise OVKVCrushError(
            f"{who} needs {error.name}, which is not installed",
            f"Install it with: pip install 'ov-kvcrush[{extra}]'",
        ) from error
