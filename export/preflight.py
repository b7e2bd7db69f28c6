"""What can be known to fail before anything heavy starts: options, model, output folder, disks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.constants import HF_HUB_CACHE

from ov_kvcrush.export.checkpoint.source import Source, find_source, model_folder
from ov_kvcrush.export.kv_plan.group_sizes import KEY_GROUPS_WITHOUT_EFFECT, check_group_sizes
from ov_kvcrush.export.kv_plan.plan_file import read_kv_file, require_layers
from ov_kvcrush.export.output_folder import (
    check_output,
    keep_apart,
    require_space,
    resolve_output,
)
from ov_kvcrush.export.texts.texts import Text, find_text
from ov_kvcrush.export.value_balance.projections import ValueProjections
from ov_kvcrush.export.workspace import nearest_folder

if TYPE_CHECKING:
    from optimum.intel.openvino.configuration import OVConfig
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from ov_kvcrush.export.options import ExportOptions
    from ov_kvcrush.plan import LayerGeometry
    from ov_kvcrush.precisions import LayerPrecision
    from ov_kvcrush.progress import Progress


@dataclass(frozen=True)
class Preflight:
    """A checked export.

    Attributes:
        source: where the model is.
        config: its configuration.
        tokenizer: its tokenizer, with the chat template that will be exported.
        compression: Optimum's configuration of the weights; None leaves it to Optimum.
        layers: estimated attention geometry; empty if the configuration does not tell.
        precisions: of the KV cache by layer, where a file names them; else empty.
        kv_text: to calibrate the KV cache's precisions on, and to balance its values on.
        projections: of the values, where they are to be balanced; else None.
        weight_bytes: estimated size of the finished weights.
        compressed_format: what the weights are compressed to, for the user to read; empty where
            they are not.
        weights_fit: whether the weights are known to be those of the configuration; else it is
            found out when they are loaded.
    """

    source: Source
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    compression: OVConfig | None
    layers: tuple[LayerGeometry, ...]
    precisions: tuple[LayerPrecision, ...]
    kv_text: Text
    projections: ValueProjections | None
    weight_bytes: int
    compressed_format: str
    weights_fit: bool


def check(options: ExportOptions, progress: Progress) -> Preflight:
    """Check an export; cheap things first.

    Raises:
        ConfigError: options that contradict each other or the model.
        ExportError: the model, the output folder or a disk does not allow the export.
    """
    output = resolve_output(options.output)
    keep_apart(output, model_folder(options), options)
    check_output(output, options.overwrite)
    from_file = options.kv_plan and options.kv_plan != "auto"
    precisions = read_kv_file(str(options.kv_plan)) if from_file else ()
    source = find_source(options)
    kv_text = find_text(options.kv_dataset)

    # Optimum takes seconds to import: not before the quick checks have passed.
    from ov_kvcrush.export import optimum
    from ov_kvcrush.export.checkpoint import estimate
    from ov_kvcrush.export.checkpoint.generation_settings import check_generation_settings
    from ov_kvcrush.export.tokenizer import load_checkpoint_tokenizer

    config = optimum.read_config(options, source.folder)
    compression = optimum.compression(options)
    for note in _without_effect(options, optimum.ignores_dataset(compression)):
        progress.note(note)
    layers = estimate.estimate_layers(config)
    if layers and precisions:
        require_layers(precisions, len(layers))
    projections = _value_projections(options, source, config, layers)
    check_group_sizes(layers, options.value_cache_group_size)
    settings = _compression_settings(compression, source)
    before = estimate.exported_bytes(source.checkpoint, options)
    after = estimate.compressed_bytes(source.checkpoint, settings) if settings else 0
    copied = source.checkpoint.num_bytes if projections else 0
    require_space(nearest_folder(output), before + after + copied, "the export")
    if source.download_bytes:
        cache = Path(options.cache_dir or HF_HUB_CACHE).resolve()
        require_space(nearest_folder(cache), source.download_bytes, "the download")
    vocab_size = estimate.vocab_size(config)
    tokenizer = load_checkpoint_tokenizer(options, source.folder, vocab_size, progress)
    check_generation_settings(source.folder)
    weights_fit = _check_weights(options, source, config, progress)
    kind = settings.get("dtype") or options.weight_format if settings else ""
    weight_bytes = after or before
    return Preflight(
        source,
        config,
        tokenizer,
        compression,
        layers,
        precisions,
        kv_text,
        projections,
        weight_bytes,
        kind or "",
        weights_fit,
    )


def _without_effect(options: ExportOptions, ignores_dataset: bool) -> list[str]:
    """Sentences about options that are taken and do little, or nothing."""
    notes = []
    if ignores_dataset:
        notes.append("--dataset has no effect: no option that looks at data was given with it")
    if options.key_cache_group_size:
        notes.append(KEY_GROUPS_WITHOUT_EFFECT)
    if options.pad_token_id is not None:
        notes.append("--pad-token-id has no effect: Optimum uses it for text classification alone")
    if options.model_kwargs:
        notes.append("--model-kwargs is passed to Optimum, which uses it for few text models")
    return notes


def _check_weights(
    options: ExportOptions, source: Source, config: PretrainedConfig, progress: Progress
) -> bool:
    """Whether it is known already that the weights are those of the configuration."""
    from ov_kvcrush.export.checkpoint.completeness import compare
    from ov_kvcrush.export.checkpoint.weight_files import tensor_shapes

    fit = compare(config, tensor_shapes(source.weights), options.trust_remote_code)
    if fit is None or source.downloads:
        return False
    for note in fit.require(options.model, config):
        progress.note(note)
    return True


def _value_projections(
    options: ExportOptions,
    source: Source,
    config: PretrainedConfig,
    layers: tuple[LayerGeometry, ...],
) -> ValueProjections | None:
    if not options.balance_values:
        return None
    projections = ValueProjections(config, layers)
    if not source.downloads:
        projections.require_in(source.folder, options.variant)
    return projections


def _compression_settings(compression: OVConfig | None, source: Source) -> dict[str, Any]:
    from ov_kvcrush.export.checkpoint.estimate import OPTIMUM_COMPRESSES_FROM

    if compression is None:
        large = source.checkpoint.num_parameters >= OPTIMUM_COMPRESSES_FROM
        return {"bits": 8, "dtype": "int8"} if large else {}
    if compression.quantization_config is None:
        return {}
    return dict(compression.quantization_config.to_dict())
