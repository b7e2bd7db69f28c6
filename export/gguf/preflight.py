"""What can be known to fail before a GGUF file is converted: options, file, output folder, disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.gguf.description import context_length, geometry, main_kind
from ov_kvcrush.export.gguf.model_file import GgufModel, Tensor
from ov_kvcrush.export.gguf.readable import require_readable
from ov_kvcrush.export.gguf.stored_anew import bytes_stored_anew, kinds_stored_anew, read_kind
from ov_kvcrush.export.kv_plan.group_sizes import KEY_GROUPS_WITHOUT_EFFECT, check_group_sizes
from ov_kvcrush.export.kv_plan.plan_file import read_kv_file, require_layers
from ov_kvcrush.export.kv_plan.target import require_nncf
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.output_folder import (
    check_output,
    keep_apart,
    require_space,
    resolve_output,
)
from ov_kvcrush.export.texts.mix import find_texts
from ov_kvcrush.export.texts.texts import Text, find_text
from ov_kvcrush.export.workspace import nearest_folder
from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

# Bits of a weight in the IR, with its part of scale and zero.
_BITS = {"F32": 32, "F16": 16, "Q4_0": 4.5, "Q4_1": 5, "Q4_K": 5, "Q6_K": 9.5, "Q8_0": 8.5}


@dataclass(frozen=True)
class GgufPreflight:
    """A checked export of a GGUF file.

    Attributes:
        model: the file.
        layers: attention geometry.
        precisions: of the KV cache by layer, where a file names them; else empty.
        kv_text: to calibrate the KV cache's precisions on.
        weight_bytes: estimated size of the IR's weights.
    """

    model: GgufModel
    layers: tuple[LayerGeometry, ...]
    precisions: tuple[LayerPrecision, ...]
    kv_text: Text
    weight_bytes: int


def check(options: ExportOptions, path: Path, progress: Progress) -> GgufPreflight:
    """Check an export of the GGUF file ``path``; cheap things first.

    Raises:
        ConfigError: options that contradict each other, or are for other models.
        ExportError: the file, the output folder or a disk does not allow the export.
    """
    options.require_for_gguf()
    output = resolve_output(options.output)
    _require_file(path)
    keep_apart(output, path, options)
    check_output(output, options.overwrite)
    from_file = options.kv_plan and options.kv_plan != "auto"
    precisions = read_kv_file(str(options.kv_plan)) if from_file else ()
    if options.kv_plan == "auto":
        require_nncf()
    kv_text = find_text(options.kv_dataset)
    find_texts(options.texts)
    model = GgufModel(path)
    require_readable(model)
    layers = geometry(model)
    if precisions:
        require_layers(precisions, len(layers))
    check_group_sizes(layers, options.value_cache_group_size)
    weight_bytes = sum(map(_ir_bytes, model.tensors.values()))
    # Beside the finished IR its first version, and the file that is read, where it is a copy.
    needed = 2 * weight_bytes + bytes_stored_anew(model)
    require_space(nearest_folder(output), needed, "the export")
    if options.key_cache_group_size:
        progress.note(KEY_GROUPS_WITHOUT_EFFECT)
    for kind, instead in kinds_stored_anew(model).items():
        progress.note(
            f"OpenVINO's GGUF reader does not know {kind}: those weights are stored in {instead}"
        )
    return GgufPreflight(model, layers, precisions, kv_text, weight_bytes)


def estimate(options: ExportOptions, checked: GgufPreflight) -> KVPlan:
    """The plan that the export would make; ``fingerprint`` is empty."""
    precisions = checked.precisions or (options.kv_precision,) * len(checked.layers)
    return KVPlan(
        model_type=checked.model.architecture,
        fingerprint="",
        layers=checked.layers,
        precisions=precisions,
        kv_bytes_per_token=kv_bytes_per_token(checked.layers, precisions),
        context_length=context_length(checked.model),
        weights={"format": main_kind(checked.model), "size_bytes": checked.weight_bytes},
    )


def _require_file(path: Path) -> None:
    try:
        found = path.is_file()
        str(path.resolve()).encode()
    except UnicodeEncodeError as error:
        raise ExportError(
            f"the model {path} is not a path in UTF-8, which the libraries need", "Rename it."
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExportError(f"the model {path} cannot be read: {reason}") from error
    if not found:
        raise ExportError(
            f"no such file: {path}",
            "--model takes a folder with config.json and weights, a GGUF file, or an id such as "
            "org/name.",
        )


def _ir_bytes(tensor: Tensor) -> int:
    return int(tensor.size * _BITS[read_kind(tensor)] / 8)
