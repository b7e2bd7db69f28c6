"""``ov-kvcrush export``: the command line of :func:`ov_kvcrush.export.export_model`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from typer.core import TyperCommand

from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.errors import ConfigError

if TYPE_CHECKING:
    from ov_kvcrush.export.weight_speeds import WeightSpeed
    from ov_kvcrush.plan import KVPlan

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_WEIGHTS, _KV, _RUN = "Weights (NNCF)", "KV cache", "This run"

_REFUSED = {
    "disable_stateful": "without state the model has no KV cache of its own to page",
    "disable_convert_tokenizer": "the engine needs the tokenizer as an OpenVINO model",
    "quant_mode": "it quantizes activations too, which the paged graph was not made for",
    "smooth_quant_alpha": "it goes with --quant-mode, which quantizes activations too",
}


class _Export(TyperCommand):
    """Takes ``export openvino …`` as it is typed behind ``optimum-cli``, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave out the word ``openvino`` where the output follows later: else it is the output."""
        if args[:1] == ["openvino"]:
            _, unused, _ = self.make_parser(ctx).parse_args(list(args))
            args = args[1:] if unused else args
        return super().parse_args(ctx, args)


def folder(text: str) -> Path:
    """The path that is typed: an empty one would be the current folder."""
    if not text:
        raise typer.BadParameter("it is empty")
    return Path(text)


def _flag(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=_WEIGHTS, show_default=False)


def _option(help_text: str, *names: str, metavar: str | None = None, panel: str = _WEIGHTS) -> Any:
    return typer.Option(
        *names, help=help_text, metavar=metavar, rich_help_panel=panel, show_default=False
    )


def _hidden(*names: str) -> Any:
    return typer.Option(*names, hidden=True)


@app.command(cls=_Export)
def export(
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", help="Folder of a Hugging Face model, its hub id, or a GGUF file."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(help="To make.", show_default=False, parser=folder),
    ],
    task: Annotated[
        str, typer.Option(help="Only text generation with a KV cache; auto means the same.")
    ] = "text-generation-with-past",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    cache_dir: Annotated[
        str | None,
        typer.Option("--cache_dir", "--cache-dir", help="Where models from the hub are cached."),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Take the weights from files of this variant.")
    ] = None,
    library: Annotated[str | None, typer.Option(help="transformers.")] = None,
    framework: Annotated[str, typer.Option(help="pt.")] = "pt",
    pad_token_id: Annotated[
        int | None, typer.Option(help="Padding token, where the tokenizer names none.")
    ] = None,
    model_kwargs: Annotated[
        str | None, typer.Option(help="JSON object of arguments for the model.")
    ] = None,
    weight_format: Annotated[
        str | None,
        _option(
            "Without it as stored, but int8 from a billion weights on.",
            metavar="fp32|fp16|int8|int4|mxfp4|nf4|cb4",
        ),
    ] = None,
    ratio: Annotated[
        float | None, _option("Share of layers in 4 bits, the others in 8 (default 1.0).")
    ] = None,
    group_size: Annotated[
        int | None, _option("Weights that share a scale in 4-bit formats; -1 is a whole channel.")
    ] = None,
    group_size_fallback: Annotated[
        str | None,
        _option("For layers that the group size does not divide.", metavar="error|ignore|adjust"),
    ] = None,
    sym: Annotated[bool, _flag("Symmetric quantization.", "--sym")] = False,
    backup_precision: Annotated[
        str | None,
        _option("For layers not in 4 bits.", metavar="none|int8_sym|int8_asym"),
    ] = None,
    all_layers: Annotated[
        bool, _flag("Embeddings and last layer in 4 bits too.", "--all-layers")
    ] = False,
    awq: Annotated[bool, _flag("Activation-aware weight quantization.", "--awq")] = False,
    scale_estimation: Annotated[
        bool, _flag("Fit scales to calibration data.", "--scale-estimation")
    ] = False,
    gptq: Annotated[bool, _flag("GPTQ on calibration data.", "--gptq")] = False,
    lora_correction: Annotated[
        bool, _flag("Low-rank correction on calibration data.", "--lora-correction")
    ] = False,
    sensitivity_metric: Annotated[
        str | None, _option("How layers are chosen when the ratio is below 1.", metavar="NAME")
    ] = None,
    dataset: Annotated[
        str | None,
        _option(
            "Calibration data: a text or .jsonl file of yours, auto (the model writes it), "
            "or wikitext2, c4, c4-new, gsm8k from the hub.",
            metavar="FILE|NAME",
        ),
    ] = None,
    num_samples: Annotated[int | None, _option("Calibration samples (default 128).")] = None,
    quantization_statistics_path: Annotated[
        str | None, _option("Folder to keep calibration statistics in.", metavar="DIR")
    ] = None,
    kv_cache_precision: Annotated[
        str | None,
        _option("Keys and values alike.", metavar="f32|bf16|u8|u4", panel=_KV),
    ] = None,
    key_cache_precision: Annotated[
        str | None, _option("Keys (default u8).", metavar="f32|bf16|u8|u4", panel=_KV)
    ] = None,
    value_cache_precision: Annotated[
        str | None, _option("Values (default u8).", metavar="f32|bf16|u8|u4", panel=_KV)
    ] = None,
    key_cache_group_size: Annotated[
        int, _option("Elements of a key that share a scale; 0: OpenVINO's default.", panel=_KV)
    ] = 0,
    value_cache_group_size: Annotated[
        int, _option("Elements of a value that share a scale; 0: the whole head.", panel=_KV)
    ] = 0,
    kv_plan: Annotated[
        str | None,
        _option(
            "A precision for each layer: auto calibrates them, a JSON file names them.",
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
    kv_dataset: Annotated[
        str | None,
        _option(
            "auto, --balance-values: calibration text: a text or .jsonl file, or wikitext2, c4 "
            "from the hub.",
            metavar="FILE|NAME",
            panel=_KV,
        ),
    ] = None,
    balance_values: Annotated[
        bool,
        _option(
            "Store values in bases that u4 suits: the same function, fitted to calibration text.",
            "--balance-values",
            panel=_KV,
        ),
    ] = False,
    no_calibrate: Annotated[
        bool,
        _option(
            "Leave out the last steps: no layer shares and no gate. "
            "For later: ov-kvcrush calibrate OUTPUT",
            "--no-calibrate",
            panel=_KV,
        ),
    ] = False,
    texts: Annotated[
        list[str] | None,
        _option(
            "Texts like those that will be read, for the gate, before the package's own; can be "
            "repeated.",
            "--texts",
            metavar="FILE",
            panel=_KV,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        _option("Check everything and show estimates; export nothing.", "--dry-run", panel=_RUN),
    ] = False,
    overwrite: Annotated[
        bool, _option("Replace an exported model in OUTPUT.", "--overwrite", panel=_RUN)
    ] = False,
    as_json: Annotated[
        bool, _option("Print the summary as JSON on stdout.", "--json", panel=_RUN)
    ] = False,
    verbose: Verbose = False,
    disable_stateful: Annotated[bool, _hidden("--disable-stateful")] = False,
    disable_convert_tokenizer: Annotated[bool, _hidden("--disable-convert-tokenizer")] = False,
    quant_mode: Annotated[str | None, _hidden("--quant-mode")] = None,
    smooth_quant_alpha: Annotated[float | None, _hidden("--smooth-quant-alpha")] = None,
) -> None:
    """Export a Hugging Face model or a GGUF file: OpenVINO model, tokenizer and KV plan.

    The options are those of `optimum-cli export openvino`, with the KV cache's on top; its command
    line can be pasted. The weights of a GGUF file stay as they are quantized there, and PyTorch is
    not needed for it.

    Examples:

    - `ov-kvcrush export -m Qwen/Qwen3-4B --weight-format int8 qwen3`

    - `ov-kvcrush export -m Llama-3.2-3B-Instruct-Q4_K_M.gguf llama`

    - `ov-kvcrush export -m ./llama --weight-format int4 --awq --dataset notes.txt llama-int4`

    - `ov-kvcrush export -m ./llama --value-cache-precision u4 --dry-run llama-kv-u4`

    - `ov-kvcrush export -m ./llama --weight-format int8 --kv-plan auto --balance-values llama-auto`
    """
    given = dict(locals())
    for name, reason in _REFUSED.items():
        if given.pop(name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} is not offered: {reason}", f"Leave {option} out.")
    for name in ("verbose", "dry_run", "as_json", "kv_cache_precision"):
        del given[name]
    for name in ("sym", "all_layers", "awq", "scale_estimation", "gptq", "lora_correction"):
        given[name] = given[name] or None  # "not asked" lets Optimum's defaults for models apply
    given["calibrate"] = not given.pop("no_calibrate")
    given["texts"] = tuple(texts or ())
    given["model_kwargs"] = _parse_model_kwargs(model_kwargs)
    _set_precisions(given, kv_cache_precision)
    _export(given, dry_run, as_json, verbose)


def _export(given: dict[str, Any], dry_run: bool, as_json: bool, verbose: bool) -> None:
    from ov_kvcrush.cli.output.plan_summary import print_summary, print_summary_as_json
    from ov_kvcrush.cli.output.progress import StepProgress
    from ov_kvcrush.export import ExportOptions, estimate_model, export_model
    from ov_kvcrush.export.child_process import run_in_child

    options = ExportOptions(**given)
    make = estimate_model if dry_run else export_model
    try:
        with StepProgress("Check the model and the disk", plain=verbose) as progress:
            plan = run_in_child(make, options, progress, verbose)
    except KeyboardInterrupt:
        print(f"interrupted: nothing was written to {options.output}", file=sys.stderr)
        raise
    show = print_summary_as_json if as_json else print_summary
    show(plan, options.output, dry_run, _weight_speeds(plan))


def _weight_speeds(plan: KVPlan) -> Mapping[str, WeightSpeed]:
    """Of formats on this machine; none where the model does not tell how wide it is."""
    if not plan.layers:
        return {}
    from ov_kvcrush.export.weight_speeds import measure_weight_speeds

    return measure_weight_speeds(plan.layers, float(plan.weights.get("size_bytes", 0)))


def _set_precisions(given: dict[str, Any], both: str | None) -> None:
    for part in ("key", "value"):
        name = f"{part}_cache_precision"
        if both and given[name] and given[name] != both:
            raise ConfigError(
                f"--kv-cache-precision {both} and --{part}-cache-precision {given[name]} "
                "contradict each other",
                "Give the precision of both, or of keys and values one by one.",
            )
        given[name] = given[name] or both or "u8"


def _parse_model_kwargs(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--model-kwargs is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError("--model-kwargs is not a JSON object", """Write it as '{"name": 1}'.""")
    return value
