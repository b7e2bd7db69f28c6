"""``ov-kvcrush inspect``: what a model, a KV plan or a session file is; nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ov_kvcrush.cli.evaluating.outputs import check_writable
from ov_kvcrush.cli.options.flags import spell_flags
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.cli.output.json_value import print_json
from ov_kvcrush.errors import ConfigError

if TYPE_CHECKING:
    from ov_kvcrush.inspection.model import InspectedModel
    from ov_kvcrush.inspection.session import InspectedSession

_LONGEST_NAME = 40  # beside what a picture shows

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR|PLAN|SESSION",
            help="Folder of an OpenVINO model, its ov_kvcrush.json, or a session (*.safetensors).",
            show_default=False,
        ),
    ],
    max_cache_size: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Budget that is reckoned with (default 1024); not for sessions, which have one.",
            min=1,
            max=2**31 - 1,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL_DIR",
            help="For a session: whether this model can go on from it.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="All of it as one JSON object on stdout.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Picture (png, svg or pdf) of which heads remember: shares of a model, tokens "
            "kept of a session; needs the eval extra.",
            show_default=False,
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Show what a model, a KV plan or a session file is. Nothing is compiled or loaded.

    Of a **model**, also one without a KV plan: geometry, precisions, shares by layer and KV head
    and which heads share a cache, how good its gate is, what the KV cache takes with and without a
    budget, what fits into this machine, and how all of it was made. Of a **session**: what was
    said or read, what is kept of it, and which model it belongs to; the file is read whole, and
    damage is found.

    Examples:

    - `ov-kvcrush inspect qwen3`

    - `ov-kvcrush inspect qwen3 --max-cache-size 2048 --plot heads.png`

    - `ov-kvcrush inspect qwen3/ov_kvcrush.json --json`

    - `ov-kvcrush inspect monday.safetensors --model qwen3`
    """
    from ov_kvcrush.evaluation.plot import require_plot
    from ov_kvcrush.inspection.kind import PLAN, SESSION, kind_of

    kind = kind_of(path)
    if plot is not None:
        check_writable(plot, path)
        require_plot(plot)
    if kind == SESSION:
        if max_cache_size is not None:
            raise ConfigError(
                "--max-cache-size is not for sessions, which have a budget", "Leave it out."
            )
        _inspect_session(path, model, as_json, plot)
        return
    if model is not None:
        raise ConfigError(
            f"--model is for sessions, and {path} is a {kind}", "Leave it out, or give a session."
        )
    from ov_kvcrush.inspection.model import inspect_model, inspect_plan

    found = inspect_plan(path) if kind == PLAN else inspect_model(path)
    try:
        _show_model(found, max_cache_size, as_json, plot)
    except ConfigError as error:
        spelling = {"max_cache_size": "--max-cache-size"}
        raise ConfigError(
            spell_flags(error.message, spelling), spell_flags(error.hint, spelling)
        ) from error


def _show_model(
    model: InspectedModel, max_cache_size: int | None, as_json: bool, plot: Path | None
) -> None:
    from ov_kvcrush.cli.inspecting.model_report import model_figures, print_model
    from ov_kvcrush.cli.output.plan_rows import BUDGET

    plan, budget = model.plan, max_cache_size or BUDGET
    if plot is not None and not plan.head_shares:
        raise ConfigError(
            f"there is nothing to draw: the shares of the heads of {model.path} were not measured",
            "Measure them with: ov-kvcrush calibrate MODEL_DIR",
        )
    if as_json:
        print_json(model_figures(model, budget), indent=2)
    else:
        print_model(model, budget)
    if plot is not None:
        from ov_kvcrush.inspection.picture import save_heat_map

        shares = [
            [None if layer.sliding_window else share for share in heads]
            for layer, heads in zip(plan.layers, plan.head_shares, strict=True)
        ]
        title = f"{_name(model.path)}: parts of KV heads in the cache's budget"
        save_heat_map(shares, plot, title, "times an even share")


def _inspect_session(path: Path, model_dir: Path | None, as_json: bool, plot: Path | None) -> None:
    from ov_kvcrush.cli.inspecting.session_report import print_session, session_figures
    from ov_kvcrush.inspection.model import inspect_model
    from ov_kvcrush.inspection.session import fit_of, inspect_session

    session = inspect_session(path)
    model = None if model_dir is None else inspect_model(model_dir)
    fit = None if model is None else fit_of(session, model)
    if plot is not None:
        _plot_session(session, plot)
    if as_json:
        print_json(session_figures(session, model, fit), indent=2)
    else:
        print_session(session, model, fit)


def _plot_session(session: InspectedSession, plot: Path) -> None:
    from ov_kvcrush.inspection.picture import save_heat_map

    contents = session.contents
    if contents.state is None:
        raise ConfigError(
            f"there is nothing to draw: {session.path} holds no cache", "Leave --plot out."
        )
    mean = contents.num_kept
    shares = [[tokens / mean for tokens in heads] for heads in contents.kept_by_head]
    title = f"{_name(session.path)}: tokens kept, {mean:,.0f} of {session.num_tokens:,} on average"
    save_heat_map(shares, plot, title, "times the mean")


def _name(path: Path) -> str:
    name = path.resolve().name
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 2]} …"
