"""Optimum-Intel and NNCF, called as ``optimum-cli export openvino`` calls them.

Only ``tokenizer`` touches them beside it, and some of it is private there: the release is pinned in
pyproject.toml, and tests/export/test_exporter.py compares the weights with ``optimum-cli``'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nncf
from huggingface_hub.constants import HUGGINGFACE_HUB_CACHE
from optimum.commands.export.openvino import (
    no_compression_parameter_provided,
    prepare_wc_config,
)
from optimum.exporters.openvino.__main__ import _main_quantize, main_export
from optimum.exporters.tasks import TasksManager
from optimum.intel.openvino.configuration import (
    _DEFAULT_4BIT_WQ_CONFIG,
    OVConfig,
    OVWeightQuantizationConfig,
    _GPTOSSQuantizationConfig,
    get_default_quantization_config,
)
from optimum.intel.utils.import_utils import is_transformers_version
from transformers import AutoConfig, PretrainedConfig
from transformers import __version__ as transformers_version

from ov_kvcrush.errors import ConfigError, ExportError, OVKVCrushError, first_line, last_line
from ov_kvcrush.export.options import TASK, ExportOptions
from ov_kvcrush.export.texts.hub_text import require_data_set, require_known
from ov_kvcrush.export.texts.text_file import is_file_name, read_samples

_LIBRARY = "transformers"
_ON_THE_FLY = "auto"  # calibration text the model writes itself
_OTHER_HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
)


def read_config(options: ExportOptions, folder: Path) -> PretrainedConfig:
    """The model's configuration, if Optimum can export it as text generation with past.

    Raises:
        ExportError: unknown or unsupported architecture, or code of its own that was not trusted.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except Exception as error:  # of json, transformers, and of values that it does not check
        if "trust_remote_code" in str(error):
            raise ExportError(
                f"{options.model} comes with Python code of its own, which the export would run",
                "Read that code, and add --trust-remote-code if you trust it.",
            ) from error
        if "does not recognize this architecture" in str(error):
            raise ExportError(
                f"the architecture of {options.model} is not known to transformers "
                f"{transformers_version}",
                "A newer release of the export packages may know it.",
            ) from error
        raise ExportError(
            f"the configuration of {options.model} cannot be read: {first_line(error)}",
            "Correct config.json, or download the model again.",
        ) from error
    architectures = config.architectures or []
    if not isinstance(architectures, list) or not all(isinstance(a, str) for a in architectures):
        raise ExportError(
            f"architectures is {architectures!r} in config.json, not a list of names",
            "Correct config.json, or download the model again.",
        )
    model_type = getattr(config, "export_model_type", config.model_type)
    if not _is_supported(model_type):
        raise ExportError(
            f"Optimum cannot export the architecture {model_type!r} as {TASK}",
            "Decoder-only text models can be exported: Llama, Qwen, Mistral, Phi, Gemma, …",
        )
    _check_transformers_release(config, model_type)
    heads = [name for name in architectures if name.endswith(_OTHER_HEADS)]
    if heads:
        raise ExportError(
            f"{options.model} is a {heads[0]}: it has no head that predicts the next token",
            "Give the model that was made for text generation.",
        )
    return config


def _is_supported(model_type: str) -> bool:
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(
            model_type, exporter="openvino", library_name=_LIBRARY
        )
    except KeyError:
        return False
    return TASK in tasks


def _check_transformers_release(config: PretrainedConfig, model_type: str) -> None:
    # Optimum asks this itself, but after it has loaded all weights.
    make = TasksManager.get_exporter_config_constructor(
        "openvino", model_type=model_type, task=TASK, library_name=_LIBRARY
    )
    exporter = make(config)
    for sign, bound, name in (
        ("<", "MIN_TRANSFORMERS_VERSION", "at least"),
        (">", "MAX_TRANSFORMERS_VERSION", "at most"),
    ):
        release = getattr(exporter, bound, None)
        if release is not None and is_transformers_version(sign, str(release)):
            raise ExportError(
                f"Optimum exports the architecture {model_type!r} with transformers {name} "
                f"{release}; {transformers_version} is installed",
                f'Run: pip install "transformers{">=" if sign == "<" else "<="}{release}"',
            )


def compression(options: ExportOptions) -> OVConfig | None:
    """Optimum's configuration of the weights; None leaves the choice to Optimum.

    What ``optimum-cli`` makes of the same flags, defaults for well-known models included.

    Raises:
        ConfigError: Optimum refuses the flags, or the calibration data cannot be had.
    """
    if options.weight_format is None:
        return None
    if not options.compresses:
        return OVConfig(dtype=options.weight_format)
    if options.dataset and is_file_name(options.dataset):
        samples = read_samples(options.dataset, options.num_samples)
        options = dataclasses.replace(options, dataset=samples)  # type: ignore[arg-type]
    elif options.dataset is not None:
        require_known(options.dataset)
    try:
        config = OVConfig(quantization_config=_compression_settings(options))
    except ValueError as error:
        raise ConfigError(
            f"Optimum refuses these compression options: {last_line(error)}",
            "They are optimum-cli's; see: optimum-cli export openvino --help",
        ) from error
    _check_dataset(options, config.quantization_config)
    return config


def _compression_settings(options: ExportOptions) -> dict[str, Any]:
    if options.weight_format in ("int4", "int8") and no_compression_parameter_provided(options):
        default = get_default_quantization_config(options.model, options.weight_format)
        if default is None and options.weight_format == "int4":
            default = _DEFAULT_4BIT_WQ_CONFIG
        if default is not None:
            statistics = options.quantization_statistics_path
            return {**default, "statistics_path": statistics} if statistics else dict(default)
    settings: dict[str, Any] = prepare_wc_config(options, _DEFAULT_4BIT_WQ_CONFIG)
    return settings


def _check_dataset(options: ExportOptions, config: Any) -> None:
    dataset = getattr(config, "dataset", None)
    if isinstance(dataset, str) and dataset != _ON_THE_FLY:
        whose = "" if options.dataset else f" (Optimum's default for {options.model})"
        require_data_set(dataset, whose)


def ignores_dataset(config: OVConfig | None) -> bool:
    """Whether a data set was given, but none of the chosen methods looks at data."""
    settings = config and config.quantization_config
    if not isinstance(settings, OVWeightQuantizationConfig) or settings.dataset is None:
        return False
    data_free = nncf.SensitivityMetric.WEIGHT_QUANTIZATION_ERROR.value
    return not (
        settings.quant_method.value == "awq"
        or settings.scale_estimation
        or settings.gptq
        or settings.lora_correction
        or (settings.ratio < 1 and settings.sensitivity_metric != data_free)
    )


def compresses_afterwards(config: OVConfig | None) -> bool:
    """Whether compression is a step of its own, after the export."""
    settings = config and config.quantization_config
    # Optimum compresses gpt-oss within the export, in two passes.
    return settings is not None and not isinstance(settings, _GPTOSSQuantizationConfig)


def export(options: ExportOptions, model: str, config: OVConfig | None, target: Path) -> None:
    """Write ``model``, a folder or hub id, as OpenVINO IR to ``target``, not yet compressed.

    Raises:
        ExportError: Optimum failed.
    """
    with _told_as(f"Optimum could not export {options.model}"):
        main_export(
            model,
            target,
            task=TASK,
            framework=options.framework,
            cache_dir=options.cache_dir or HUGGINGFACE_HUB_CACHE,
            trust_remote_code=options.trust_remote_code,
            pad_token_id=options.pad_token_id,
            ov_config=config,
            stateful=True,
            convert_tokenizer=False,
            library_name=_LIBRARY,
            variant=options.variant,
            model_kwargs=options.model_kwargs,
        )


def compress(options: ExportOptions, config: OVConfig, target: Path) -> None:
    """Compress the weights of the IR in ``target``.

    Raises:
        ExportError: NNCF failed.
    """
    with _told_as(f"NNCF could not compress {options.model}"):
        _main_quantize(
            options.model,
            TASK,
            _LIBRARY,
            config.quantization_config,
            target,
            options.cache_dir or HUGGINGFACE_HUB_CACHE,
            trust_remote_code=options.trust_remote_code,
            model_kwargs=options.model_kwargs,
        )


@contextmanager
def _told_as(what: str) -> Iterator[None]:
    try:
        yield
    except OVKVCrushError:
        raise
    except nncf.InvalidGroupSizeError as error:
        raise ExportError(
            f"{what}: the group size does not divide the width of some layers",
            "Give a smaller --group-size (64, 32), or --group-size-fallback adjust.",
        ) from error
    except Exception as error:
        if "iostream error" in str(error):  # all that OpenVINO says when it cannot write a file
            raise ExportError(
                f"{what}: a file cannot be written", "See that the disk has room, and run it again."
            ) from error
        raise ExportError(
            f"{what}: {last_line(error)}", "Run again with -v to see all that the libraries say."
        ) from error
