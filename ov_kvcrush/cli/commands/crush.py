"""``ov-kvcrush crush``: reads a document once and keeps its crushed cache in a file."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ov_kvcrush.cli.chat.session_file import check_session_file
from ov_kvcrush.cli.options.cache import cache_options, spell_cache_options
from ov_kvcrush.cli.options.model import (
    ContextLength,
    ModelDir,
    ParseSpecial,
    Properties,
    load_pipeline,
    parse_properties,
)
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.cli.output.json_value import print_json
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.cli.output.stats_line import megabytes
from ov_kvcrush.cli.process import describe_document, read_document
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, OVKVCrushError, SessionError
from ov_kvcrush.precisions import SAME
from ov_kvcrush.runtime.session_files.session_lock import session_lock

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
    from ov_kvcrush.pipeline.saving import SessionSummary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
@cache_options
def crush(
    model_dir: ModelDir,
    document: Annotated[
        str, typer.Argument(metavar="DOC", help="Text file in UTF-8; - is what is piped in.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File to make (*.safetensors).",
            show_default=False,
        ),
    ],
    system: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="System message of the chats about it.", show_default=False
        ),
    ] = "",
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="Read the document twice and keep what the second reading looks at: about twice "
            "the time, for documents that are asked about often.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace whatever FILE is, not just another document."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on stdout.")
    ] = False,
    properties: Properties = None,
    parse_special: ParseSpecial = False,
    context_length: ContextLength = None,
    verbose: Verbose = False,
    *,
    kv_cache_config: KVCacheConfig,
) -> None:
    """Read a document once, crush its KV cache to a budget, and keep that in a file.

    Chats begin behind it with `ov-kvcrush chat MODEL_DIR --session FILE`: none of them reads the
    document again. While it is read its cache is cut too, so the memory it takes is bounded.

    Examples:

    - `ov-kvcrush crush qwen3 report.txt -o report.safetensors --max-cache-size 1024`

    - `pdftotext report.pdf - | ov-kvcrush crush qwen3 - -o report.safetensors --kv-budget-mb 40`
    """
    if not kv_cache_config.evicts:
        raise ConfigError(
            "nothing says how far to crush the document", "Add --max-cache-size TOKENS."
        )
    check_session_file(output)
    text = read_document(document)
    with session_lock(output):
        _check_output(output, overwrite)
        pipeline = load_pipeline(
            model_dir,
            "CPU",
            "paged",
            kv_cache_config,
            parse_properties(properties or []),
            SAME,  # it decodes nothing
            parse_special,
            context_length,
        )
        try:
            with StepProgress("Prepare") as progress:
                twice = " twice" if thorough else ""
                progress.step(1, 2, f"Read{twice} and crush {describe_document(document)}")
                # As a file that a chat's /read attaches stands before its question.
                prefix = pipeline.cache_prefix(f"{text}\n\n", system, progress.read, thorough)
                progress.step(2, 2, f"Write {output}")
                summary = pipeline.save_session(output, prefix, overwrite=overwrite)
        except KeyboardInterrupt:
            print(f"interrupted: nothing was written to {output}", file=sys.stderr)
            raise
    command = ["ov-kvcrush", "chat", str(model_dir), "--session", str(output)]
    command += ["--parse-special"] * parse_special
    command += [] if pipeline.has_chat_template else ["--prompt", "QUESTION"]
    following = shlex.join([*command, *spell_cache_options(kv_cache_config)])
    figures = _figures(pipeline, prefix, summary, document, output, following)
    if as_json:
        print_json(figures, indent=2)
    else:
        _print_summary(figures)


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse, before a document is read for minutes, what would not be replaced in the end."""
    from ov_kvcrush.pipeline.saving import PREFIX, saved_kind

    if os.path.isdir(output):
        raise SessionError(f"{output} is a folder", "Give the name of a file.")
    if not os.path.exists(output) or overwrite:
        return
    try:
        kind = saved_kind(output)
    except OVKVCrushError:
        kind = "file of another kind"
    if kind != PREFIX:
        raise SessionError(
            f"{output} exists and is not a crushed document, but a {kind}",
            "Choose another name, or add --overwrite.",
        )


def _figures(
    pipeline: LLMPipeline,
    prefix: CachedPrefix,
    summary: SessionSummary,
    document: str,
    output: Path,
    following: str,
) -> dict[str, Any]:
    description = pipeline.describe()
    if prefix.metrics is None:
        raise RuntimeError("a prefix that was just read says nothing of what it cost")
    metrics = prefix.metrics.to_dict()
    return {
        "document": document,
        "output": str(output),
        "num_tokens": summary.num_tokens,
        "num_kept": summary.num_kept,
        "kv_bytes": metrics["kv_bytes"],
        "kv_bytes_full": metrics["kv_bytes_full"],
        "kv_bytes_peak": metrics["kv_bytes_peak"],
        "file_bytes": summary.file_bytes,
        "thorough": prefix.thorough,
        "seconds": metrics["duration_ms"] / 1e3,
        "key_cache_precision": description.key_cache_precision,
        "value_cache_precision": description.value_cache_precision,
        "kv_cache_config": description.kv_cache_config.to_dict(),
        "next": following,
    }


def _print_summary(figures: dict[str, Any]) -> None:
    evicted = figures["num_tokens"] - figures["num_kept"]
    kept = (
        f"{figures['num_kept']:,} of them kept, {evicted:,} evicted"
        if evicted
        else "all of them kept: they fit the budget"
    )
    twice = " twice" if figures["thorough"] else ""
    rows = {
        "Document": f"{figures['num_tokens']:,} tokens, read{twice} in {figures['seconds']:,.1f} s",
        "Tokens": kept,
        "KV cache": f"{megabytes(figures['kv_bytes'])} of {megabytes(figures['kv_bytes_full'])}, "
        f"at most {megabytes(figures['kv_bytes_peak'])} meanwhile, "
        f"K {figures['key_cache_precision']} V {figures['value_cache_precision']}",
        "On disk": megabytes(figures["file_bytes"]),
    }
    print(figures["output"])
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value}")
    print(f"Next: {figures['next']}")
