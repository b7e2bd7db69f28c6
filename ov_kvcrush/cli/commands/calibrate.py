"""``ov-kvcrush calibrate``: what an export measures, for an OpenVINO model that is there."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

from ov_kvcrush.cli.output.errors import Verbose

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_MEASURE, _KV, _RUN = "What is measured", "KV cache", "This run"
_TEXTS = "--texts"


class _Calibrate(TyperCommand):
    """Takes several files behind one ``--texts``, as a shell makes them of ``*.md``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give each of those files a ``--texts`` of its own; the last may be the model instead."""
        spread, added = _spread(args)
        if added:
            _, arguments, _ = self.make_parser(ctx).parse_args(list(spread))
            if not arguments:
                del spread[added[-1]]
        return super().parse_args(ctx, spread)


def _spread(args: list[str]) -> tuple[list[str], list[int]]:
    """``args`` with a ``--texts`` before each file behind one, and the places of those added."""
    spread, added = list[str](), list[int]()
    takes_more = False
    for before, arg in zip(["", *args], args, strict=False):
        if arg.startswith("-"):
            takes_more = arg == _TEXTS
        elif takes_more and before != _TEXTS:
            added.append(len(spread))
            spread.append(_TEXTS)
        spread.append(arg)
    return spread, added


def _option(help_text: str, *names: str, metavar: str | None = None, panel: str = _MEASURE) -> Any:
    return typer.Option(
        *names, help=help_text, metavar=metavar, rich_help_panel=panel, show_default=False
    )


@app.command(cls=_Calibrate)
def calibrate(
    model: Annotated[Path, typer.Argument(help="OpenVINO model to measure.", show_default=False)],
    only: Annotated[
        list[str] | None,
        _option(
            "Measure this and leave the rest as it is; can be repeated.",
            metavar="gate|shares|kv-plan",
        ),
    ] = None,
    texts: Annotated[
        list[str] | None,
        _option(
            "Texts like those that will be read, for gate and precisions: prose, source code, "
            ".jsonl files. The package's own prose and code fill up the time that is left.",
            _TEXTS,
            metavar="FILE...",
        ),
    ] = None,
    kv_plan: Annotated[
        str | None,
        _option(
            "A precision for each layer, too: auto calibrates them (needs the package nncf), a "
            "JSON file names them.",
            metavar="auto|FILE",
            panel=_KV,
        ),
    ] = None,
    kv_bytes_per_token: Annotated[
        float | None,
        _option("auto: at most so many bytes (default 75 % of u8's).", panel=_KV),
    ] = None,
    max_drop: Annotated[
        float | None,
        _option("auto: the smallest that diverges by at most so many nats a token.", panel=_KV),
    ] = None,
    as_json: Annotated[
        bool, _option("Print the summary as JSON on stdout.", "--json", panel=_RUN)
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Measure an OpenVINO model for its KV cache: which heads look back, and a gate.

    For any text-generation model in a folder: exported by optimum-cli, downloaded ready, made from
    a GGUF, or exported by ov-kvcrush, which measures the same at its end. A KV plan and a gate
    appear beside the model, both or neither; neither the model nor its tokenizer is changed.

    Examples:

    - `ov-kvcrush calibrate ./qwen3-int4-ov`

    - `ov-kvcrush calibrate ./qwen3-int4-ov --texts minutes/*.md`

    - `ov-kvcrush calibrate ./qwen3-int4-ov --only gate --texts src/*.py`

    - `ov-kvcrush calibrate ./qwen3-int4-ov --kv-plan auto --max-drop 0.01`
    """
    from ov_kvcrush.cli.output.plan_summary import print_summary, print_summary_as_json
    from ov_kvcrush.cli.output.progress import StepProgress
    from ov_kvcrush.export.calibration.calibrate import measure_model, write_calibrated
    from ov_kvcrush.export.calibration.options import CalibrationOptions
    from ov_kvcrush.export.child_process import work_in_child

    options = CalibrationOptions(
        model, tuple(only or ()), tuple(texts or ()), kv_plan, kv_bytes_per_token, max_drop
    )
    try:
        with StepProgress("Check the model", plain=verbose) as progress:
            measure = partial(measure_model, options)
            found = work_in_child(measure, progress, verbose, "calibration")
    except KeyboardInterrupt:
        print(f"interrupted: nothing was written to {model}", file=sys.stderr)
        raise
    plan = write_calibrated(model, found)
    show = print_summary_as_json if as_json else print_summary
    show(plan, model)
