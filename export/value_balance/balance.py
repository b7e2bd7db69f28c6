"""A copy of a checkpoint that is the same function, its values in bases that few bits suit.

The weights are changed before Optimum exports them: afterwards they may be in 8 or 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import ExportError, last_line
from ov_kvcrush.export.checkpoint.weight_files import tensor_shapes, weight_files
from ov_kvcrush.export.texts.passages import read_tokens, split_passages
from ov_kvcrush.export.value_balance.basis import balanced_basis, rounding_cost
from ov_kvcrush.export.value_balance.projections import ValueProjections
from ov_kvcrush.plan_records import ValueBasis

if TYPE_CHECKING:
    import torch

    from ov_kvcrush.export.texts.texts import Text
    from ov_kvcrush.export.workspace import Workspace
    from ov_kvcrush.progress import Progress

Doubles = NDArray[np.float64]


def balance_values(
    source: Path,
    variant: str | None,
    projections: ValueProjections,
    text: Text,
    context_length: int,
    workspace: Workspace,
    progress: Progress,
) -> tuple[str, ValueBasis]:
    """The step of an export: a folder to export instead of the model, and how it was found.

    Args:
        source: folder of the Hugging Face model.
        variant: of its weight files.
        projections: of it.
        text: to find the bases on.
        context_length: tokens the model can read, 0 where that is not known.
        workspace: holds the converted tokenizer; its scratch folder gets the copy.
        progress: is told how far it is.

    Raises:
        ExportError: the checkpoint lacks the projections, or cannot be loaded.
        ConfigError: the text is too short.
    """
    target = workspace.scratch / "balanced"
    projections.require_in(source, variant)
    passages, _ = split_passages(read_tokens(workspace.model, text), context_length)
    balance = find_balance(source, projections, passages, variant, progress.advance)
    write_balanced(source, target, projections, balance, variant)
    return str(target), ValueBasis(
        method="balanced",
        text=text.origin,
        passages=tuple(len(passage) for passage in passages),
        predicted_cost=tuple(round(cost, 4) for cost in balance.cost),
    )


@dataclass(frozen=True)
class Balance:
    """How the values of a model are to be stored.

    Attributes:
        bases: by layer, ``[num_kv_heads, D, D]`` (see :func:`balanced_basis`).
        cost: of rounding, by layer, as a share of what it is without them; predicted on the same
            texts.
    """

    bases: tuple[Doubles, ...]
    cost: tuple[float, ...]


def find_balance(
    folder: Path,
    projections: ValueProjections,
    passages: Sequence[Sequence[int]],
    variant: str | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Balance:
    """Read ``passages`` with the checkpoint in ``folder`` and choose bases for its values.

    Takes as much memory as the checkpoint, which exporting it will take too.

    Args:
        folder: Hugging Face model.
        projections: of it.
        passages: token ids.
        variant: of its weight files.
        on_progress: told what share is read, 0 to 1.

    Raises:
        ExportError: transformers cannot load it, or values that are not finite numbers come of it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", variant=variant)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(
            f"transformers cannot load {folder}: {last_line(error)}", "Download the model again."
        ) from error
    moments: dict[int, Doubles] = {}
    sensitivities: dict[int, Doubles] = {}

    def collect(number: int) -> Callable[..., None]:
        def hook(module: object, given: object, projected: torch.Tensor) -> None:
            values = projections.values(projected).double().numpy()
            moments[number] = moments.get(number, 0) + np.einsum("tki,tkj->kij", values, values)

        return hook

    for name, module in model.named_modules():
        place = projections.place(name)
        if place is None:
            continue
        number, kind, _ = place
        if kind == "o_proj":
            sensitivities[number] = projections.sensitivities(module.weight)
        else:
            module.register_forward_hook(collect(number))
    with torch.no_grad():
        for count, tokens in enumerate(passages, start=1):
            model.base_model(input_ids=torch.tensor([list(tokens)]), use_cache=False)
            on_progress(count / len(passages))
    for number, moment in moments.items():
        if not np.isfinite(moment).all():
            raise ExportError(
                f"the values of layer {number} on the calibration text are not finite numbers",
                "Leave --balance-values out, or give another text with --kv-dataset.",
            )
    heads = [list(zip(moments[n], sensitivities[n], strict=True)) for n in sorted(moments)]
    bases = [np.stack([balanced_basis(*head) for head in layer]) for layer in heads]
    cost = []
    for layer, basis in zip(heads, bases, strict=True):
        after = sum(rounding_cost(*head, one) for head, one in zip(layer, basis, strict=True))
        cost.append(after / sum(rounding_cost(*head) for head in layer))
    return Balance(tuple(bases), tuple(cost))


def write_balanced(
    source: Path,
    target: Path,
    projections: ValueProjections,
    balance: Balance,
    variant: str | None = None,
) -> None:
    """Make the folder ``target``: the checkpoint in ``source`` with its values in other bases.

    Files that do not change are links to those in ``source``. Each file is held in memory once.

    Args:
        variant: of the weight files that are to change.
    """
    target.mkdir()
    weights = weight_files((path.name for path in source.iterdir()), variant)
    for path in source.iterdir():
        changed = path.name in weights and _write_changed(path, target, projections, balance)
        if not changed:
            (target / path.name).symlink_to(path.resolve())


def _write_changed(
    path: Path, target: Path, projections: ValueProjections, balance: Balance
) -> bool:
    names = [name for name in tensor_shapes([path]) if projections.changes(name)]
    if not names:
        return False
    tensors = _load(path)
    for name in names:
        tensors[name] = projections.changed(name, tensors[name], balance.bases)
    _save(tensors, target / path.name)
    return True


def _load(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(tensors, path, {"format": "pt"})  # transformers asks for it
    else:
        torch.save(tensors, path)
