"""``ov-kvcrush ovms-config``: the files by which OpenVINO Model Server serves a model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ov_kvcrush.cli.options.cache import cache_options
from ov_kvcrush.cli.options.model import Device, ModelDir
from ov_kvcrush.cli.output.console import print_rows
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.cli.output.json_value import print_json
from ov_kvcrush.config import KVCacheConfig

if TYPE_CHECKING:
    from ov_kvcrush.ovms.deployment import Deployment

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_PORT = 8000


@app.command("ovms-config")
@cache_options
def ovms_config(
    model_dir: ModelDir,
    device: Device = "CPU",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder of both files, config.json and graph/graph.pbtxt (default MODEL_DIR-ovms "
            "beside the model).",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What requests call the model (default its folder's name).",
            show_default=False,
        ),
    ] = None,
    cache_size: Annotated[
        int,
        typer.Option(
            metavar="GB",
            help="Room for all sequences together, in whole GB (2^30 bytes); 0 grows with what is "
            "asked, which a cache in u4 must not.",
            min=0,
        ),
    ] = 0,
    for_ovms: Annotated[
        str | None,
        typer.Option(
            metavar="RELEASE",
            help="Release of the server, 2025.4 or later; before 2026.2 a graph must not say all "
            "that it says for later ones (default 2026.2 and later).",
            show_default=False,
        ),
    ] = None,
    draft_model: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL_DIR",
            help="A small model of the same vocabulary that guesses for it; not where anything is "
            "evicted.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the two files where they are there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on stdout.")
    ] = False,
    verbose: Verbose = False,
    *,
    kv_cache_config: KVCacheConfig,
) -> None:
    """Write what OpenVINO Model Server needs to serve a model with a bounded cache.

    Its eviction is openvino_genai's, in whole pages, the same for all layers and heads, and behind
    the prompt only; what it cannot obey is refused, and defaults of ours give way with a note. It
    keeps no cache between the turns of a chat where it evicts: `ov-kvcrush serve` does. The model's
    folder is left as it is.

    Examples:

    - `ov-kvcrush ovms-config qwen3 --max-cache-size 1024 --cache-size 2`

    - `ov-kvcrush ovms-config qwen3 --max-cache-size 1024 --for-ovms 2026.1 -o deploy --name qwen3`
    """
    from ov_kvcrush.ovms.deployment import plan_deployment
    from ov_kvcrush.ovms.release import NEWEST, Release

    deployment = plan_deployment(
        model_dir,
        kv_cache_config,
        output=output,
        name=name,
        device=device,
        cache_size=cache_size,
        release=NEWEST if for_ovms is None else Release.parse(for_ovms),
        draft_model=draft_model,
    )
    deployment.write(overwrite)
    if as_json:
        print_json(_figures(deployment), indent=2)
    else:
        _print_summary(deployment)


def _command(deployment: Deployment) -> str:
    words = ["ovms", "--rest_port", str(_PORT), "--config_path", str(deployment.config_file)]
    return shlex.join(words)


def _base_url() -> str:
    return f"http://localhost:{_PORT}/v3"


def _figures(deployment: Deployment) -> dict[str, Any]:
    graph, eviction = deployment.graph, deployment.eviction
    return {
        "config_file": str(deployment.config_file),
        "graph_file": str(deployment.graph_file),
        "name": deployment.name,
        "models_path": graph.models_path,
        "device": graph.device,
        "eviction": None if eviction is None else eviction.describe(),
        "prefix_caching": graph.prefix_caching,
        "cache_size_gb": graph.scheduler.cache_size,
        "pool_tokens": deployment.pool_tokens,
        "base_url": _base_url(),
        "next": _command(deployment),
    }


def _print_summary(deployment: Deployment) -> None:
    graph, eviction = deployment.graph, deployment.eviction
    rows = [("Model", f"{deployment.name}, {graph.models_path} from {deployment.graph_file}")]
    if eviction is None:
        rows.append(("KV cache", "nothing is evicted"))
    else:
        total = eviction.start + eviction.important + eviction.representatives + eviction.recent
        rows.append(
            (
                "KV cache",
                f"{total:,} tokens of a sequence behind its prompt: {eviction.start:,} first, "
                f"{eviction.important:,} important, {eviction.representatives:,} representatives, "
                f"{eviction.recent:,} last",
            )
        )
    size, tokens = graph.scheduler.cache_size, deployment.pool_tokens
    pool = f"{size} GB" if size else "grows with what is asked"
    rows.append(("Pool", f"{pool}, {tokens:,} tokens" if tokens else pool))
    rows.append(
        ("Between turns", "the cache of what prompts begin with is kept")
        if graph.prefix_caching
        else ("Between turns", "no cache is kept: every turn reads the whole chat again")
    )
    if not deployment.has_chat:
        rows.append(("Chat", "the model has no chat template: /v3/completions alone will work"))
    rows.append(("Base URL", f"{_base_url()} for OpenAI's clients"))
    print_rows(str(deployment.output), rows)
    print(f"Next: {_command(deployment)}")
