"""``ov-kvcrush eval``: how many answers stay right with a part of the KV cache."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ov_kvcrush.cli.options.model import (
    DecodePrecision,
    Device,
    ModelDir,
    Properties,
    parse_properties,
)
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.errors import ConfigError, OVKVCrushError, did_you_mean
from ov_kvcrush.evaluation.configurations import make_configurations, parse_keep, parse_precision
from ov_kvcrush.evaluation.dataset import SPLITS, choose_examples, read_examples
from ov_kvcrush.evaluation.plot import require_plot, save_plot
from ov_kvcrush.evaluation.policies import DEFAULT_POLICIES, FULL, POLICIES
from ov_kvcrush.evaluation.report import accuracy_table, difference_table, summary, task_table
from ov_kvcrush.files import replacing

if TYPE_CHECKING:
    from ov_kvcrush.evaluation.results import Outcome

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_CACHE, _DATA, _OUTPUT = "KV cache", "Questions", "Output"
# A table in a file or a pipe is as wide as it has to be.
_WIDE = 1000


@app.command("eval")
def evaluate(
    model_dir: ModelDir,
    device: Device = "CPU",
    *,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE", rich_help_panel=_DATA, help="Conversations, one JSON object a line."
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", rich_help_panel=_DATA, help="Only this task; repeatable."),
    ] = None,
    tokens: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="LOW HIGH",
            rich_help_panel=_DATA,
            help="Only documents from LOW to HIGH tokens, as the data counts them.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="|".join(SPLITS),
            rich_help_panel=_DATA,
            help="The half of the documents to tune with, or the half to report.",
        ),
    ] = "all",
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, rich_help_panel=_DATA, help="N of them, always the same ones."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            rich_help_panel=_CACHE,
            help=f"{', '.join(POLICIES)}; repeatable (default {', '.join(DEFAULT_POLICIES)}). "
            f"{FULL} is evaluated in any case. Other settings of one: NAME:FIELD=VALUE,...",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            rich_help_panel=_CACHE,
            help="Part of each document's tokens that stays, such as 1/4 or 0.25; repeatable "
            "(default 1/4).",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY/VALUE",
            rich_help_panel=_CACHE,
            help="Storage of keys and values, such as u8/u4, or exported for the model's own plan; "
            "repeatable, the first with the full cache is the reference (default exported).",
            show_default=False,
        ),
    ] = None,
    prefill_factor: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR",
            rich_help_panel=_CACHE,
            help="Prefill budget as a multiple of the budget, 1 or more; 0 cuts nothing while a "
            "prompt is read (default as in chat).",
            show_default=False,
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            min=1,
            rich_help_panel=_CACHE,
            help="Tokens of a prompt that are read at once (default 2048).",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_OUTPUT,
            help="Policy to which every other one's difference is given, with 95 % intervals.",
            show_default=False,
        ),
    ] = None,
    by_task: Annotated[
        bool, typer.Option("--by-task", rich_help_panel=_OUTPUT, help="A second table, by task.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", rich_help_panel=_OUTPUT, help="The figures as one JSON object."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            rich_help_panel=_OUTPUT,
            help="The same and every answer, written anew after each configuration.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            rich_help_panel=_OUTPUT,
            help="Picture of accuracy over KV cache size; needs the eval extra.",
            show_default=False,
        ),
    ] = None,
    properties: Properties = None,
    decode_precision: DecodePrecision = None,
    max_cache_size: Annotated[int | None, typer.Option(hidden=True)] = None,
    verbose: Verbose = False,
) -> None:
    """Count exactly right answers about long documents: policies, budgets, precisions.

    A document is read with its first question, and the cache is cut once. Later questions are
    answered from what is left, each after the right answers to those before it. The full cache
    comes first and is the reference.

    A line of the data is `{"id": TEXT, "task": TEXT, "tokens": NUMBER, "turns":
    [[QUESTION, ANSWER], ...]}`, the document in the first question; a first answer "Noted." is not
    scored. After Ctrl+C the configurations that were finished are shown. Exit codes: 0 done,
    1 unexpected failure, 2 a mistake in the input, 130 Ctrl+C.

    Examples:

    - `ov-kvcrush eval qwen3 --data questions.jsonl --limit 20`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --keep 1/2 --keep 1/4 --keep 1/8 --plot a.png`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --precision u8/u8 --precision u4/u4
    --policy full`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --policy default
    --policy default:representative_share=0.75,window_size=32`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --policy genai-kvcrush --policy default
    --compare genai-kvcrush --json`
    """
    if max_cache_size is not None:
        raise ConfigError(
            "--max-cache-size is not for documents of different sizes",
            "Give the part of their tokens that stays: --keep 1/4",
        )
    if prefill_factor is not None and prefill_factor != 0 and not prefill_factor >= 1:
        raise ConfigError(
            f"--prefill-factor {prefill_factor} is below the budget",
            "Give 1 or more, or 0 to cut nothing while a prompt is read.",
        )
    policies = policy or list(DEFAULT_POLICIES)
    if compare is not None and compare not in [FULL, *policies]:
        raise ConfigError(
            f"--compare {compare!r} is not one of the policies", did_you_mean(compare, policies)
        )
    for path in (output, plot):
        if path is not None and not path.resolve().parent.is_dir():
            raise ConfigError(f"{path} cannot be written: there is no such folder")
    if plot is not None:
        require_plot(plot)
    configurations = make_configurations(
        policies,
        [parse_keep(text) for text in keep or ["1/4"]],
        [parse_precision(text) for text in precision or []],
    )
    examples = choose_examples(
        read_examples(data), tasks=task or (), sizes=tokens, split=split, limit=limit
    )
    facts: dict[str, Any] = {
        "model": str(model_dir),
        "device": device,
        "data": str(data),
        "tasks": task or None,
        "tokens": tokens,
        "split": split,
        "limit": limit,
        "prefill_factor": prefill_factor,
        "chunk": chunk,
        "properties": parse_properties(properties or []),
        "decode_precision": decode_precision,
    }
    outcomes: list[Outcome] = []

    def figures(with_examples: bool) -> str:
        body = facts | {"complete": len(outcomes) == len(configurations)}
        return json.dumps(body | summary(outcomes, compare, with_examples), indent=2)

    try:
        with StepProgress("Counting tokens …") as progress:
            from ov_kvcrush.evaluation.run import Evaluation

            evaluation = Evaluation(
                model_dir, device, facts["properties"], prefill_factor, chunk, decode_precision
            )
            for outcome in evaluation.compare(configurations, examples, progress):
                outcomes.append(outcome)
                if output is not None:
                    _write(output, figures(with_examples=True))
    finally:
        # After Ctrl+C or a failure too: what was finished took long to run.
        if outcomes:
            if as_json:
                print(figures(with_examples=False))
            else:
                _print_tables(outcomes, by_task, compare)
            if plot is not None:
                save_plot(outcomes, plot)


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as stream:
            stream.write(f"{text}\n".encode())
    except OSError as error:
        raise OVKVCrushError(f"cannot write {path}: {error.strerror}") from error


def _print_tables(outcomes: Sequence[Outcome], by_task: bool, compare: str | None) -> None:
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_WIDE)
    console.print(accuracy_table(outcomes))
    if by_task:
        console.print(task_table(outcomes))
    if compare is not None:
        console.print(difference_table(outcomes, compare))
