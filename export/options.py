"""What an export is asked for: one frozen set of options, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.export.kv_plan.target import require_targets
from ov_kvcrush.export.recognize import gguf_file
from ov_kvcrush.precisions import KV_PRECISIONS, LayerPrecision, require_precision_pair

TASK = "text-generation-with-past"
WEIGHT_FORMATS = ("fp32", "fp16", "int8", "int4", "mxfp4", "nf4", "cb4")
COMPRESSED_FORMATS = WEIGHT_FORMATS[2:]

_SAME_TASK = (TASK, "causal-lm-with-past", "auto")
# What an export of a GGUF file has nothing to do with, beside the compression of weights.
_NOT_FOR_GGUF = (
    "weight_format",
    "trust_remote_code",
    "cache_dir",
    "variant",
    "library",
    "pad_token_id",
    "model_kwargs",
    "balance_values",
)
_COMPRESSION = (
    "ratio",
    "sym",
    "group_size",
    "group_size_fallback",
    "backup_precision",
    "dataset",
    "all_layers",
    "awq",
    "scale_estimation",
    "gptq",
    "lora_correction",
    "sensitivity_metric",
    "quantization_statistics_path",
    "num_samples",
)


@dataclass(frozen=True)
class ExportOptions:
    """One export. The names and meanings down to ``variant`` are those of ``optimum-cli``.

    Attributes:
        model: folder of a Hugging Face model, its id on the hub, or a GGUF file.
        output: folder to make. It appears whole, at the end, or not at all.
        dataset: also a path to calibration text of one's own (see ``texts/text_file.py``).
        sym, all_layers, awq, scale_estimation, gptq, lora_correction: True, or None for "not
            asked", which lets the defaults apply that Optimum keeps for well-known models.
        key_cache_precision, value_cache_precision: ``f32``, ``bf16``, ``u8`` or ``u4``.
        key_cache_group_size, value_cache_group_size: elements that share a scale; 0 leaves the
            plugin's default.
        kv_plan: ``"auto"`` calibrates a precision for each layer; a path reads them from a file
            (see ``kv_plan/plan_file.py``); None gives all layers the same.
        kv_bytes_per_token: most bytes a token may take in all layers together, for ``"auto"``.
        max_drop: most nats a token by which the output may diverge, for ``"auto"``.
        kv_dataset: calibration text for ``"auto"`` and ``balance_values``: a path, or a data set's
            name (``HUB_TEXTS``); None takes the package's own.
        balance_values: store values in bases that suit few bits (see ``value_balance/basis.py``).
        calibrate: measure layer shares and the gate at the end (see ``calibration/``).
        texts: files to fit the gate on before the package's own texts.
        overwrite: replace an exported model that is already at ``output``.

    Raises:
        ConfigError: a value is unknown, or options contradict each other.
    """

    model: str
    output: Path
    task: str = TASK
    framework: str = "pt"
    library: str | None = None
    trust_remote_code: bool = False
    cache_dir: str | None = None
    pad_token_id: int | None = None
    model_kwargs: dict[str, Any] | None = field(default=None, hash=False)
    weight_format: str | None = None
    ratio: float | None = None
    sym: bool | None = None
    group_size: int | None = None
    group_size_fallback: str | None = None
    backup_precision: str | None = None
    dataset: str | None = None
    num_samples: int | None = None
    all_layers: bool | None = None
    awq: bool | None = None
    scale_estimation: bool | None = None
    gptq: bool | None = None
    lora_correction: bool | None = None
    sensitivity_metric: str | None = None
    quantization_statistics_path: str | None = None
    variant: str | None = None
    key_cache_precision: str = "u8"
    value_cache_precision: str = "u8"
    key_cache_group_size: int = 0
    value_cache_group_size: int = 0
    kv_plan: str | None = None
    kv_bytes_per_token: float | None = None
    max_drop: float | None = None
    kv_dataset: str | None = None
    balance_values: bool = False
    calibrate: bool = True
    texts: tuple[str, ...] = ()
    overwrite: bool = False

    def __post_init__(self) -> None:
        _refuse_other_tasks(self)
        _known("--weight-format", self.weight_format, WEIGHT_FORMATS)
        _known("--key-cache-precision", self.key_cache_precision, KV_PRECISIONS)
        _known("--value-cache-precision", self.value_cache_precision, KV_PRECISIONS)
        require_precision_pair(self.key_cache_precision, self.value_cache_precision)
        _check_group_sizes(self)
        _check_kv_plan(self)
        if gguf_file(self.model) is not None:
            self.require_for_gguf()
        _check_compression(self)

    @property
    def kv_precision(self) -> LayerPrecision:
        """Storage of the KV cache, the same in every layer."""
        return LayerPrecision(
            self.key_cache_precision,
            self.value_cache_precision,
            self.key_cache_group_size,
            self.value_cache_group_size,
        )

    @property
    def compresses(self) -> bool:
        """Whether the weight format asks for NNCF."""
        return self.weight_format in COMPRESSED_FORMATS

    @property
    def compression_flags(self) -> tuple[str, ...]:
        """The compression options that were given, as they are typed."""
        return tuple(_flag(name) for name in _COMPRESSION if getattr(self, name) is not None)

    def require_for_gguf(self) -> None:
        """Refuse options that say how the weights of a Hugging Face model are taken and stored.

        Raises:
            ConfigError: one was given.
        """
        given = [name for name in (*_NOT_FOR_GGUF, *_COMPRESSION) if getattr(self, name)]
        if given:
            flags = " ".join(map(_flag, given))
            raise ConfigError(
                f"{flags} beside a GGUF file: its weights stay as they are quantized there",
                "Leave it out, or export the Hugging Face model that the file was made from.",
            )


def _refuse_other_tasks(options: ExportOptions) -> None:
    if options.task not in _SAME_TASK:
        reason = (
            "a model exported without its past has no KV cache"
            if options.task in ("text-generation", "causal-lm")
            else "only text generation has a KV cache to plan"
        )
        raise ConfigError(
            f"--task {options.task} is not exported here: {reason}",
            f"Leave --task out, or give {TASK}. For other tasks: optimum-cli export openvino.",
        )
    if options.library not in (None, "transformers"):
        raise ConfigError(
            f"--library {options.library} has no text generation with a KV cache",
            "Leave --library out. For other libraries: optimum-cli export openvino.",
        )
    if options.framework != "pt":
        raise ConfigError(
            f"--framework {options.framework} is not known",
            "Optimum exports from PyTorch only: pt.",
        )


def _check_group_sizes(options: ExportOptions) -> None:
    for part in ("key", "value"):
        size = getattr(options, f"{part}_cache_group_size")
        precision = getattr(options, f"{part}_cache_precision")
        if size < 0:
            raise ConfigError(
                f"--{part}-cache-group-size is {size}, below 0",
                "0 leaves OpenVINO's default: one scale for the whole head.",
            )
        if size and precision not in ("u8", "u4"):
            raise ConfigError(
                f"--{part}-cache-group-size has no meaning for {precision}, which has no scales",
                f"Leave it out, or set --{part}-cache-precision to u8 or u4.",
            )


def _check_kv_plan(options: ExportOptions) -> None:
    others = []
    if options.kv_dataset is not None and not options.balance_values:
        others.append("--kv-dataset")
    require_targets(options.kv_plan, options.kv_bytes_per_token, options.max_drop, others)
    if options.kv_plan == "auto" and not options.calibrate:
        raise ConfigError(
            "--kv-plan auto measures the model, and --no-calibrate asks for no measurements",
            "Leave one of them out, or give precisions in a file: --kv-plan FILE.",
        )
    if options.texts and not options.calibrate:
        raise ConfigError(
            "--texts is for measurements, and --no-calibrate asks for none",
            "Leave one of them out.",
        )
    if options.kv_plan is None:
        return
    plain = LayerPrecision("u8", "u8")
    if options.kv_precision != plain:
        raise ConfigError(
            "--kv-plan gives each layer its own KV precision, and another one was given for all",
            "Leave the cache precisions and group sizes out, or --kv-plan.",
        )


def _check_compression(options: ExportOptions) -> None:
    flags = " ".join(options.compression_flags)
    if flags and not options.compresses:
        chosen = f"--weight-format {options.weight_format}" if options.weight_format else "none"
        raise ConfigError(
            f"{flags} compress weights, but the weight format is {chosen}",
            "Add --weight-format int4, or leave them out.",
        )
    if options.ratio is not None and not 0 < options.ratio <= 1:
        raise ConfigError(
            f"--ratio is {options.ratio}, outside 0 to 1",
            "It is the share of layers in 4 bits; for none at all use --weight-format int8.",
        )
    if options.num_samples is not None and options.num_samples < 1:
        raise ConfigError(
            f"--num-samples is {options.num_samples}, below 1",
            "Leave it out for 128, the number NNCF takes by itself.",
        )
    if options.weight_format == "int8":
        # Optimum drops these without a word.
        if options.ratio not in (None, 1.0):
            raise _only_for_four_bits("--ratio")
        if options.group_size not in (None, -1):
            raise _only_for_four_bits("--group-size")
        if options.all_layers:
            raise _only_for_four_bits("--all-layers")


def _only_for_four_bits(flag: str) -> ConfigError:
    return ConfigError(
        f"{flag} is for 4-bit weight formats; int8 has one scale per channel in every layer",
        f"Leave {flag} out, or use --weight-format int4.",
    )


def _known(flag: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"{flag} {value!r} is not known", did_you_mean(value, known))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
