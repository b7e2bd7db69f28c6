"""Whether a checkpoint holds the weights that its configuration asks for, and those alone.

transformers fills in random numbers for what is missing and leaves out what it has no place for,
with a line in its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ov_kvcrush.errors import ExportError, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Shape = tuple[int, ...]

# Rotary frequencies and masks, which older releases saved and all compute.
_COMPUTED = re.compile(r"inv_freq$|(attn|attention)\.(masked_)?bias$|causal_mask$")
_KV_CACHE_SCALES = re.compile(r"\b[kvq]_scale$|output_scale$")
_LAYER = re.compile(r"^(.*?)\b(\d+)\.")
_NAMED = 3


@dataclass(frozen=True)
class Fit:
    """How a checkpoint fits its model, by names of tensors.

    Attributes:
        expected: those of the model.
        missing: expected, but not stored.
        unexpected: stored, but without a place in the model.
        mismatched: expected and stored with different shapes: the stored and the model's.
    """

    expected: frozenset[str]
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)

    def require(self, model: str, config: PretrainedConfig) -> list[str]:
        """What of the checkpoint of ``model`` is left out, harmlessly: sentences for its user.

        Raises:
            ExportError: weights are missing, of other shapes, or of another architecture.
        """
        missing = self.missing
        if _is_quantized(config):  # what goes with a quantized weight is not always stored
            missing = frozenset(name for name in missing if name.endswith("weight"))
        if missing:
            raise ExportError(
                f"{model} lacks weights that its config.json asks for: {_named(missing)}",
                "Download the model again, or correct config.json if it is not of these weights "
                "(num_hidden_layers, tie_word_embeddings, …).",
            )
        if self.mismatched:
            name, (stored, expected) = min(self.mismatched.items())
            raise ExportError(
                f"{model} stores {name} as {_written(stored)}, and its config.json asks for "
                f"{_written(expected)}",
                "Correct config.json: it is not of these weights.",
            )
        unused = {name for name in self.unexpected if not _COMPUTED.search(name)}
        foreign = set() if _is_quantized(config) else self._foreign(unused, config)
        if foreign:
            raise ExportError(
                f"{model} stores weights that the architecture {config.model_type!r} of its "
                f"config.json has no place for: {_named(foreign)}",
                "Correct config.json (model_type, num_hidden_layers, attention_bias, …): it is not "
                "of these weights.",
            )
        if not unused:
            return []
        return [f"not exported, because {config.model_type} does not use them: {_named(unused)}"]

    def _foreign(self, names: set[str], config: PretrainedConfig) -> set[str]:
        """Those of ``names`` that lie in the model's own layers and modules, or in more layers."""
        modules = {name.rpartition(".")[0] for name in self.expected}
        stacks: dict[str, int] = {}
        for name in self.expected:
            if layer := _LAYER.match(name):
                stacks[layer[1]] = max(stacks.get(layer[1], 0), int(layer[2]) + 1)
        # Layers that predict several tokens at once are stored behind the others and not run.
        ahead = getattr(config.get_text_config(), "num_nextn_predict_layers", None) or 0
        foreign = set()
        for name in names:
            layer = _LAYER.match(name)
            if _KV_CACHE_SCALES.search(name):
                continue
            if layer and layer[1] in stacks:
                behind = int(layer[2]) - stacks[layer[1]]
                if not 0 <= behind < ahead:
                    foreign.add(name)
            elif name.rpartition(".")[0] in modules:
                foreign.add(name)
        return foreign


def compare(
    config: PretrainedConfig, shapes: Mapping[str, Shape], trust_remote_code: bool
) -> Fit | None:
    """How a checkpoint with tensors of ``shapes`` fits ``config``; no weight is read.

    None where that is known only when the weights are loaded: transformers renames and merges the
    tensors of some architectures, and quantized ones are stored in other shapes.

    Raises:
        ExportError: no model can be made of the configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if _is_quantized(config):
        return None
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # of torch, transformers, and code that comes with the model
        raise ExportError(
            f"no model can be made of the configuration: {first_line(error)}",
            "Correct config.json, or download the model again.",
        ) from error
    if _is_converted(model):
        return None
    model.tie_weights()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {_place(name, expected, model.base_model_prefix): shapes[name] for name in shapes}
    tied: dict[int, set[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(tensor), set()).add(name)
    missing = {name for names in tied.values() if not names & stored.keys() for name in names}
    return Fit(
        frozenset(expected),
        _not_ignored(missing, model._keys_to_ignore_on_load_missing),
        _not_ignored(stored.keys() - expected.keys(), model._keys_to_ignore_on_load_unexpected),
        {
            name: (stored[name], expected[name])
            for name in stored.keys() & expected.keys()
            if stored[name] != expected[name]
        },
    )


@contextmanager
def loading_required_to_fit(model: str) -> Iterator[list[str]]:
    """Every model that transformers loads meanwhile has to fit its checkpoint.

    Yields a list that takes what is left out of it, as :meth:`Fit.require` says it.

    Raises:
        ExportError: inside the ``with``, from the call that loads: it does not fit.
    """
    from transformers import PreTrainedModel

    notes: list[str] = []
    original = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: type[PreTrainedModel], *args: Any, **kwargs: Any) -> Any:
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded, info = original.__func__(cls, *args, **kwargs)
        fit = Fit(
            frozenset(loaded.state_dict()),
            frozenset(name for name in info["missing_keys"] if not _COMPUTED.search(name)),
            frozenset(info["unexpected_keys"]),
            {name: (tuple(of), tuple(to)) for name, of, to in info["mismatched_keys"]},
        )
        notes.extend(fit.require(model, loaded.config))
        return loaded

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    try:
        yield notes
    finally:
        PreTrainedModel.from_pretrained = original


def _is_quantized(config: PretrainedConfig) -> bool:
    return bool(getattr(config, "quantization_config", None))


def _is_converted(model: PreTrainedModel) -> bool:
    """Whether transformers renames or merges tensors of this architecture while it loads them."""
    if getattr(model, "_checkpoint_conversion_mapping", None):
        return True
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:  # transformers 4
        return False
    return bool(get_checkpoint_conversion_mapping(model.config.model_type))


def _place(name: str, expected: Mapping[str, Shape], prefix: str) -> str:
    """Where the tensor stored as ``name`` goes: with or without the prefix of the base model."""
    candidates = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((candidate for candidate in candidates if candidate in expected), name)


def _not_ignored(names: Iterable[str], patterns: Iterable[str] | None) -> frozenset[str]:
    return frozenset(
        name for name in names if not any(re.search(pattern, name) for pattern in patterns or ())
    )


def _named(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _NAMED
    return ", ".join(ordered[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _written(shape: Shape) -> str:
    return "×".join(map(str, shape))
