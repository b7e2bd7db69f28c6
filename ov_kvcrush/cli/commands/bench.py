"""``ov-kvcrush bench``: how fast a model is and what it holds, beside openvino_genai."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ov_kvcrush.cli.evaluating.outputs import Outputs
from ov_kvcrush.cli.options.flags import spell_flags
from ov_kvcrush.cli.options.model import (
    DecodePrecision,
    Device,
    PromptLookup,
    Properties,
    parse_properties,
)
from ov_kvcrush.cli.output.console import table_console
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.evaluation.configurations import AS_EXPORTED, parse_precision
from ov_kvcrush.precisions import AUTO

if TYPE_CHECKING:
    from ov_kvcrush.benchmark.options import BenchmarkOptions
    from ov_kvcrush.benchmark.results import Cell

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_MODEL, _WORK, _CACHE, _TURNS, _OUTPUT = (
    "A model of random weights",
    "What is asked for",
    "KV cache",
    "Taking turns",
    "Output",
)

_SPELLING = {
    name: "--" + name.replace("_", "-")
    for name in ("pool_size", "decode_precision", "max_num_batched_tokens", "engine")
}


def _option(help_text: str, panel: str, *names: str, **settings: Any) -> Any:
    settings = {"show_default": False, "rich_help_panel": panel, **settings}
    return typer.Option(*names, help=help_text, **settings)


@app.command()
def bench(
    model_dir: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL_DIR]", help="Exported model.", show_default=False),
    ] = None,
    device: Device = "CPU",
    *,
    random_model: Annotated[
        str | None,
        _option(
            "In place of MODEL_DIR: 0.2 billion parameters with as many KV heads as query heads, "
            "1.2 billion with grouped ones, or tiny, whose figures mean nothing. It is made once; "
            "needs the export extra.",
            _MODEL,
            metavar="mha|gqa|tiny",
        ),
    ] = None,
    keep_in: Annotated[
        Path | None,
        _option(
            "Folder in which random models are made and kept (default "
            "~/.cache/ov-kvcrush/random-models).",
            _MODEL,
            metavar="DIR",
        ),
    ] = None,
    prompt_tokens: Annotated[
        list[int] | None,
        _option(
            "Length of the prompts; repeatable (default 4,096, or what the model's context has "
            "room for).",
            _WORK,
            metavar="TOKENS",
            min=1,
        ),
    ] = None,
    answer_tokens: Annotated[
        int | None,
        _option("Length of the answers (default 64).", _WORK, metavar="TOKENS", min=1),
    ] = None,
    concurrency: Annotated[
        list[int] | None,
        _option(
            "Requests that arrive together; repeatable (default 1).",
            _WORK,
            metavar="N",
            min=1,
            max=1024,
        ),
    ] = None,
    next_turn: Annotated[
        int,
        _option(
            "Each chat goes on with a question of so many tokens, which is measured to its first "
            "token.",
            _WORK,
            metavar="TOKENS",
            min=0,
        ),
    ] = 0,
    shared_document: Annotated[
        int,
        _option(
            "All requests that arrive together begin with the same document of so many tokens, "
            "which count in the prompts' length (default 32 more, a question); in every turn it is "
            "another.",
            _WORK,
            metavar="TOKENS",
            min=0,
        ),
    ] = 0,
    max_cache_size: Annotated[
        list[int] | None,
        _option(
            "The most tokens of a sequence behind its prompt, the same for every engine that "
            "evicts; 0 evicts nothing; repeatable (default 0 and a quarter of the shortest "
            "prompt).",
            _CACHE,
            metavar="TOKENS",
            min=0,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        _option(
            f"Storage of keys and values, such as u8/u4; repeatable (default {AS_EXPORTED}).",
            _CACHE,
            metavar="KEY/VALUE",
        ),
    ] = None,
    pool_size: Annotated[
        int | None,
        _option(
            "Tokens of all sequences together, for every engine (default what they need).",
            _CACHE,
            metavar="TOKENS",
            min=1,
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        _option(
            "paged (ours), genai (openvino_genai without eviction), genai-eviction, genai-kvcrush; "
            "repeatable (default all). Other settings of ours: paged:FIELD=VALUE,...",
            _TURNS,
            metavar="ENGINE",
        ),
    ] = None,
    repeat: Annotated[
        int | None,
        _option(
            "Turns of each engine in each of two orders of compiling (default 2).",
            _TURNS,
            metavar="N",
            min=1,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        _option("Processors of each engine (default all).", _TURNS, metavar="N", min=1),
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None,
        _option(
            "Tokens of one inference, for every engine (default 2048 for ours, 4096 where a "
            "prompt is alone and nothing is evicted, and whole prompts for openvino_genai, as "
            "its LLMPipeline reads them).",
            _TURNS,
            metavar="TOKENS",
            min=1,
            max=2**31 - 1,
        ),
    ] = None,
    quick: Annotated[
        bool,
        _option(
            "A first look: 1,024 tokens in, 16 out, one turn, one order, where nothing else is "
            "given.",
            _TURNS,
            "--quick",
        ),
    ] = False,
    as_json: Annotated[bool, _option("The figures as one JSON object.", _OUTPUT, "--json")] = False,
    output: Annotated[
        Path | None,
        _option(
            "The same with every turn, written anew as soon as more is measured.",
            _OUTPUT,
            metavar="FILE.json",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        _option("Picture of all figures; needs the eval extra.", _OUTPUT, metavar="FILE.png"),
    ] = None,
    properties: Properties = None,
    decode_precision: DecodePrecision = AUTO,
    prompt_lookup: PromptLookup = 0,
    verbose: Verbose = False,
) -> None:
    """Measure a model's speed and memory, taking turns with openvino_genai.

    TTFT, TPOT, tokens a second, KV cache and resident memory, and where the time goes. Every engine
    gets the same random prompts, answers greedily past any end of sequence, and has a process of
    its own. Ratios are of turns that follow each other: their median, least and most. **of
    roofline** is the part of the time per token that reading weights and KV cache alone would
    take, at the bandwidth measured here.

    On a quiet machine, please: the last line says what other processes took of it.

    After Ctrl+C what was finished is shown. Exit codes: 0 done, 1 unexpected failure, 2 a mistake
    in the input, 130 Ctrl+C.

    Examples:

    - `ov-kvcrush bench qwen3 --quick`

    - `ov-kvcrush bench qwen3 --prompt-tokens 2048 --prompt-tokens 8192 --max-cache-size 1024
    --plot speed.png`

    - `ov-kvcrush bench qwen3 --precision u8/u8 --precision u8/u4 --engine paged`

    - `ov-kvcrush bench qwen3 --concurrency 1 --concurrency 16 --pool-size 16384 --json`

    - `ov-kvcrush bench qwen3 --max-cache-size 1024 --engine paged
    --engine paged:importance=keydiff`

    - `ov-kvcrush bench --random-model gqa --next-turn 32 --max-cache-size 1024`

    - `ov-kvcrush bench qwen3 --shared-document 4096 --concurrency 16 --max-cache-size 1024`
    """
    outputs = Outputs(as_json=as_json, output=output, plot=plot)
    outputs.check(Path(os.devnull))  # there is no data that a figure could be written over
    folder = _model_folder(model_dir, random_model, keep_in, verbose)
    from ov_kvcrush.benchmark.contestants import CONTESTANTS
    from ov_kvcrush.benchmark.options import BenchmarkOptions

    options = BenchmarkOptions(
        model_dir=folder,
        device=device,
        engines=_unique(engine) or tuple(CONTESTANTS),
        prompt_tokens=_unique(prompt_tokens),
        answer_tokens=answer_tokens,
        concurrency=_unique(concurrency) or (1,),
        max_cache_sizes=_unique(max_cache_size),
        precisions=tuple(dict.fromkeys(map(parse_precision, precision or [AS_EXPORTED]))),
        next_turn_tokens=next_turn,
        shared_document=shared_document,
        pool_size=pool_size,
        repeat=repeat,
        num_threads=threads,
        max_num_batched_tokens=max_num_batched_tokens,
        properties=parse_properties(properties or []),
        decode_precision=decode_precision,
        prompt_lookup=prompt_lookup,
        quick=quick,
    )
    try:
        _measure(options, outputs)
    except OVKVCrushError as error:
        error.message = spell_flags(error.message, _SPELLING)
        error.hint = spell_flags(error.hint, _SPELLING)
        raise


def _unique(values: list[Any] | None) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values or ()))


def _model_folder(
    model_dir: Path | None, random_model: str | None, keep_in: Path | None, verbose: bool
) -> Path:
    """The folder that is given, or that of the random model, made first where it is not there."""
    if (model_dir is None) == (random_model is None):
        raise ConfigError(
            "give either a model's folder or --random-model",
            "For instance: ov-kvcrush bench MODEL_DIR, or ov-kvcrush bench --random-model mha",
        )
    if random_model is None:
        if keep_in is not None:
            raise ConfigError("--keep-in is for --random-model", "Leave it out.")
        return model_dir or Path()
    from ov_kvcrush.benchmark.random_models import default_folder, make_random_model

    with StepProgress("Make the model", plain=verbose) as progress:
        return make_random_model(random_model, keep_in or default_folder(), progress, verbose)


def _measure(options: BenchmarkOptions, outputs: Outputs) -> None:
    """Measure and show it; errors and Ctrl+C come out when that has been done."""
    from ov_kvcrush.benchmark.grid import make_grid
    from ov_kvcrush.benchmark.plot import save_benchmark_plot
    from ov_kvcrush.benchmark.report import Report
    from ov_kvcrush.benchmark.roofline import Roofline, measure_bandwidth, read_weight_bytes
    from ov_kvcrush.benchmark.run import run_grid
    from ov_kvcrush.machine import LoadMeter

    grid = make_grid(options)
    load = LoadMeter()
    cells: list[Cell] = []
    with StepProgress("Measure the memory's bandwidth"):
        weight_bytes = read_weight_bytes(options.model_dir)
        roofline = Roofline(measure_bandwidth(grid.num_threads), weight_bytes)

    def report() -> Report:
        return Report(cells, roofline, grid.num_threads, load.others_percent())

    def figures(with_turns: bool) -> dict[str, Any]:
        about = {
            "model": str(options.model_dir),
            "device": options.device,
            "properties": dict(options.properties),
            "decode_precision": options.decode_precision,
            "prompt_lookup": options.prompt_lookup,
            "complete": len(cells) == sum(len(group.workloads) for group in grid.groups),
        }
        return about | report().to_dict(with_turns)

    def print_tables() -> None:
        console, current = table_console(), report()
        for table in current.tables():
            console.print(table)
        for line in current.last_lines():
            console.print(line, soft_wrap=True)

    with (
        outputs.shown(
            figures,
            lambda: bool(cells),
            print_tables,
            lambda path: save_benchmark_plot(report(), path),
        ),
        StepProgress("Start the engines") as progress,
    ):
        for cell in run_grid(grid, progress):
            cells.append(cell)
            outputs.keep(figures)
