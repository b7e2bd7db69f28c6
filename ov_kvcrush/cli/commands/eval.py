"""``ov-kvcrush eval``: how many answers stay right with a part of the KV cache."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ov_kvcrush.cli.options.model import (
    DecodePrecision,
    Device,
    ModelDir,
    Properties,
    parse_properties,
)
from ov_kvcrush.cli.output.console import print_json, table_console
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.evaluation.configurations import make_configurations, parse_keep, parse_precision
from ov_kvcrush.evaluation.dataset import SPLITS, choose_examples, read_examples
from ov_kvcrush.evaluation.plot import require_plot, save_plot
from ov_kvcrush.evaluation.policies import DEFAULT_POLICIES, FULL, POLICIES
from ov_kvcrush.evaluation.report import accuracy_table, difference_table, summary, task_table
from ov_kvcrush.files import partial_of, write_text

if TYPE_CHECKING:
    from ov_kvcrush.evaluation.results import Outcome

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_CACHE, _DATA, _OUTPUT = "KV cache", "Questions", "Output"
# Times a budget that nobody's document is long enough for.
_MOST = 1_000_000


def _option(help_text: str, panel: str, *names: str, **settings: Any) -> Any:
    settings = {"show_default": False, "rich_help_panel": panel, **settings}
    return typer.Option(*names, help=help_text, **settings)


@app.command("eval")
def evaluate(
    model_dir: ModelDir,
    device: Device = "CPU",
    *,
    data: Annotated[Path, _option("Conversations, one JSON object a line.", _DATA, metavar="FILE")],
    task: Annotated[
        list[str] | None, _option("Only this task; repeatable.", _DATA, metavar="NAME")
    ] = None,
    tokens: Annotated[
        tuple[int, int] | None,
        _option(
            "Only documents from LOW to HIGH tokens, as the data counts them.",
            _DATA,
            metavar="LOW HIGH",
        ),
    ] = None,
    split: Annotated[
        str,
        _option(
            "The half of the documents to tune with, or the half to report.",
            _DATA,
            metavar="|".join(SPLITS),
            show_default=True,
        ),
    ] = "all",
    limit: Annotated[
        int | None, _option("N of them, always the same ones.", _DATA, metavar="N", min=1)
    ] = None,
    policy: Annotated[
        list[str] | None,
        _option(
            f"{', '.join(POLICIES)}; repeatable (default {', '.join(DEFAULT_POLICIES)}). "
            f"{FULL} is evaluated in any case. Other settings of one: NAME:FIELD=VALUE,...",
            _CACHE,
            metavar="POLICY",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        _option(
            "Part of each document's tokens that stays, such as 1/4 or 0.25; repeatable "
            "(default 1/4).",
            _CACHE,
            metavar="PART",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        _option(
            "Storage of keys and values, such as u8/u4, or exported for the model's own plan; "
            "repeatable, the first with the full cache is the reference (default exported).",
            _CACHE,
            metavar="KEY/VALUE",
        ),
    ] = None,
    prefill_factor: Annotated[
        float | None,
        _option(
            "Prefill budget as a multiple of the budget, 1 or more; 0 cuts nothing while a "
            "prompt is read (default as in chat).",
            _CACHE,
            metavar="FACTOR",
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        _option(
            "Tokens of a prompt that are read at once (default 2048).",
            _CACHE,
            metavar="TOKENS",
            min=1,
            max=2**31 - 1,
        ),
    ] = None,
    compare: Annotated[
        str | None,
        _option(
            "Policy to which every other one's difference is given, with 95 % intervals.",
            _OUTPUT,
            metavar="NAME",
        ),
    ] = None,
    by_task: Annotated[bool, _option("A second table, by task.", _OUTPUT, "--by-task")] = False,
    as_json: Annotated[bool, _option("The figures as one JSON object.", _OUTPUT, "--json")] = False,
    output: Annotated[
        Path | None,
        _option(
            "The same and every answer, written anew after each configuration.",
            _OUTPUT,
            metavar="FILE.json",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        _option(
            "Picture of accuracy over KV cache size; needs the eval extra.",
            _OUTPUT,
            metavar="FILE.png",
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
    if prefill_factor is not None and prefill_factor != 0 and not 1 <= prefill_factor <= _MOST:
        raise ConfigError(
            f"--prefill-factor {prefill_factor} is neither 0 nor from 1 to {_MOST:,}",
            "Give 1 or more, or 0 to cut nothing while a prompt is read.",
        )
    policies = policy or list(DEFAULT_POLICIES)
    if compare is not None and compare not in [FULL, *policies]:
        raise ConfigError(
            f"--compare {compare!r} is not one of the policies", did_you_mean(compare, policies)
        )
    for path in (output, plot):
        if path is not None:
            _check_writable(path, data)
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

    def figures(with_examples: bool) -> dict[str, Any]:
        body = facts | {"complete": len(outcomes) == len(configurations)}
        return body | summary(outcomes, compare, with_examples)

    try:
        with StepProgress("Counting tokens …") as progress:
            from ov_kvcrush.evaluation.run import Evaluation

            evaluation = Evaluation(
                model_dir, device, facts["properties"], prefill_factor, chunk, decode_precision
            )
            for outcome in evaluation.compare(configurations, examples, progress):
                outcomes.append(outcome)
                if output is not None:
                    text = json.dumps(figures(with_examples=True), ensure_ascii=False, indent=2)
                    write_text(output, f"{text}\n")
    finally:
        # After Ctrl+C or a failure too: what was finished took long to run.
        if outcomes:
            if as_json:
                print_json(figures(with_examples=False), indent=2)
            else:
                _print_tables(outcomes, by_task, compare)
            if plot is not None:
                save_plot(outcomes, plot)


def _check_writable(path: Path, data: Path) -> None:
    """Refuse before anything runs a file that could not, or should not, be written in the end."""
    if os.path.realpath(path) == os.path.realpath(data):
        raise ConfigError(f"{path} is the data itself", "Give the name of another file.")
    folder = Path(os.path.realpath(path)).parent
    if not os.path.isdir(folder):
        raise ConfigError(f"{path} cannot be written: there is no such folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{path} cannot be written: it is not a file", "Give the name of a file.")
    try:
        os.stat(partial_of(path))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{path} cannot be written: its name is too long") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{path} cannot be written: its folder is read-only")


def _print_tables(outcomes: Sequence[Outcome], by_task: bool, compare: str | None) -> None:
    console = table_console()
    console.print(accuracy_table(outcomes))
    if by_task:
        console.print(task_table(outcomes))
    if compare is not None:
        console.print(difference_table(outcomes, compare))
