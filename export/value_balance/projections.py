"""Where a model computes its values and reads them again, and how a change of basis goes in there.

Llama, Qwen, Gemma and their kin have ``v_proj`` and ``o_proj`` in each layer; Phi-3 has the values'
rows last in ``qkv_proj``. Both are the same here: the last rows of a projection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.checkpoint.weight_files import tensor_shapes, weight_files
from ov_kvcrush.plan import LayerGeometry

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

Doubles = NDArray[np.float64]

_NAMES = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), "v_proj"
    ),
    "phi3": "qkv_proj",
}
_IN_LAYER = re.compile(
    r"(?:^|\.)layers\.(\d+)\.self_attn\.(v_proj|qkv_proj|o_proj)(?:\.(weight|bias))?$"
)
_LEAVE_OUT = "Leave --balance-values out."


class ValueProjections:
    """The value and output projections of one architecture.

    Args:
        config: the model's configuration.
        layers: its geometry, the same heads in every layer.

    Raises:
        ExportError: an architecture that is not known here, or weights that are quantized already.
    """

    def __init__(self, config: PretrainedConfig, layers: Sequence[LayerGeometry]) -> None:
        if config.model_type not in _NAMES or not layers:
            raise ExportError(
                "--balance-values knows the value projections of "
                f"{', '.join(_NAMES)}, not those of {config.model_type!r}",
                _LEAVE_OUT,
            )
        if getattr(config, "quantization_config", None):
            raise ExportError(
                "--balance-values changes weights, and those of this model are quantized already",
                f"Give the model as it was before, or: {_LEAVE_OUT}",
            )
        self._name = _NAMES[config.model_type]
        self._num_layers = len(layers)
        self.num_kv_heads = layers[0].num_kv_heads
        self.num_query_heads = layers[0].num_query_heads
        self.head_size = layers[0].value_head_size

    @property
    def num_rows(self) -> int:
        """Rows of all KV heads' values."""
        return self.num_kv_heads * self.head_size

    def require_in(self, folder: Path, variant: str | None = None) -> None:
        """Refuse the checkpoint in ``folder`` if it lacks these projections.

        Raises:
            ExportError: a projection of a layer is missing, or not of the size it should have; or
                a file is damaged.
        """
        files = weight_files((path.name for path in folder.iterdir()), variant)
        shapes = tensor_shapes(folder / name for name in files)
        sizes = {}
        for name, shape in shapes.items():
            found = self.place(name)
            if found and found[2] == "weight" and len(shape) == 2:
                sizes[found[:2]] = shape[found[1] == "o_proj"]
        outputs = self.num_query_heads * self.head_size
        # Queries' and keys' rows are above the values' where there is one projection for all.
        rows = self.num_rows if self._name == "v_proj" else outputs + 2 * self.num_rows
        for number in range(self._num_layers):
            for kind, size in ((self._name, rows), ("o_proj", outputs)):
                if sizes.get((number, kind)) != size:
                    raise ExportError(
                        f"--balance-values: layer {number} of the checkpoint has no "
                        f"self_attn.{kind}.weight for heads of {self.head_size}",
                        _LEAVE_OUT,
                    )

    def place(self, name: str) -> tuple[int, str, str] | None:
        """Layer, projection and part (``weight``, ``bias``; empty for a module) of that name."""
        match = _IN_LAYER.search(name)
        if match is None or match[2] not in (self._name, "o_proj"):
            return None
        return int(match[1]), match[2], match[3] or ""

    def values(self, projected: torch.Tensor) -> torch.Tensor:
        """Values ``[tokens, num_kv_heads, head_size]`` in what the projection gives."""
        return projected[..., -self.num_rows :].reshape(-1, self.num_kv_heads, self.head_size)

    def sensitivities(self, weight: torch.Tensor) -> Doubles:
        """``O^T O`` summed over each KV head's query heads: ``[num_kv_heads, D, D]``.

        Args:
            weight: of the output projection.
        """
        heads = self._by_head(weight)
        return np.asarray(np.einsum("okgd,okge->kde", heads, heads, optimize=True))

    def changes(self, name: str) -> bool:
        """Whether a change of basis changes the checkpoint's tensor of that name."""
        found = self.place(name)
        return found is not None and found[1:] != ("o_proj", "bias")

    def changed(self, name: str, tensor: torch.Tensor, bases: Sequence[Doubles]) -> torch.Tensor:
        """The checkpoint's tensor of that name for values in other bases, in its own type.

        Args:
            name: one that ``changes``.
            tensor: weight or bias. Not changed.
            bases: by layer, ``[num_kv_heads, D, D]``: ``A``, values being stored as ``A^T v``.
        """
        import torch

        number, kind, _ = self.place(name) or (0, "", "")
        basis = bases[number]
        if kind == "o_proj":
            inverse = np.linalg.inv(basis)
            heads = np.einsum("okgd,ked->okge", self._by_head(tensor), inverse, optimize=True)
            return torch.from_numpy(heads.reshape(tensor.shape)).to(tensor.dtype)
        result = tensor.clone()
        rows = tensor[-self.num_rows :].double().numpy()
        heads = rows.reshape(self.num_kv_heads, self.head_size, -1)
        heads = np.einsum("kij,kin->kjn", basis, heads, optimize=True)
        result[-self.num_rows :] = torch.from_numpy(heads.reshape(rows.shape)).to(tensor.dtype)
        return result

    def _by_head(self, weight: torch.Tensor) -> Any:
        shape = (weight.shape[0], self.num_kv_heads, -1, self.head_size)
        return weight.detach().double().numpy().reshape(shape)
