"""What openvino_genai reads of a GGUF file, and what it would read wrongly without a word."""

from __future__ import annotations

from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.gguf.description import CLASSES, head_size
from ov_kvcrush.export.gguf.model_file import HUGGING_FACE_INSTEAD, GgufModel, Tensor
from ov_kvcrush.export.gguf.splits import SPLITS

READ_KINDS = frozenset({"F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"})
"""Kinds of matrices that are read as they are; others are stored anew first."""

FLOATS = frozenset({"F32", "F16", "BF16"})

_SIZES = (
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_UNSCALED = ("", "none", "linear")
_NAMED = 3


def require_readable(model: GgufModel) -> None:
    """Refuse a model that openvino_genai cannot read, or would read as another one.

    Raises:
        ExportError: its architecture, tokenizer, positions or weights are not known to it, or the
            file is damaged.
    """
    _require_architecture(model)
    _require_tokenizer(model)
    _require_sizes(model)
    _require_positions(model)
    _require_tensors(model)
    _require_kinds(model)


def _require_architecture(model: GgufModel) -> None:
    kind = model.text("general.type") or "model"
    if kind != "model":
        raise ExportError(f"{model.path} holds a GGUF {kind}, not a model", HUGGING_FACE_INSTEAD)
    if model.swapped:
        raise _unread(model, "it is stored in the byte order of other machines")
    if model.architecture not in CLASSES:
        raise _unread(
            model,
            f"its architecture is {model.architecture or 'not told'}, and those read are "
            f"{', '.join(CLASSES)}",
        )
    if model.number(model.named("expert_count")):
        raise _unread(model, "it is a mixture of experts")


def _require_tokenizer(model: GgufModel) -> None:
    kind = model.text("tokenizer.ggml.model")
    if kind != "gpt2":
        known = {"llama": "SentencePiece", "": "not in the file"}.get(kind, kind)
        raise _unread(model, f"its tokenizer is {known}, and only byte-level BPE is read")
    split = model.text("tokenizer.ggml.pre")
    if split not in SPLITS:
        way = f"as {split}" if split else "in a way that the file does not tell"
        raise _unread(
            model, f"its tokenizer splits texts {way}; those known are {', '.join(SPLITS)}"
        )
    tokens = model.texts("tokenizer.ggml.tokens")
    if not tokens or not model.texts("tokenizer.ggml.merges"):
        raise _damaged(model, "it holds no vocabulary")
    if len(model.numbers("tokenizer.ggml.token_type")) != len(tokens):
        raise _damaged(model, "not every token of its vocabulary is of a known kind")


def _require_sizes(model: GgufModel) -> None:
    for name in _SIZES:
        if model.real(model.named(name)) <= 0:
            raise _damaged(model, f"it does not tell {model.named(name)}")
    if not model.has("general.file_type"):
        raise _damaged(model, "it does not tell general.file_type")


def _require_positions(model: GgufModel) -> None:
    scaling = model.text(model.named("rope.scaling.type"))
    if scaling not in _UNSCALED:
        raise _unread(model, f"it stretches positions by {scaling}, which the reader leaves out")
    turned = model.number(model.named("rope.dimension_count"))
    if turned and turned != head_size(model):
        raise _unread(model, f"positions turn {turned} of {head_size(model)} elements of a head")
    values = model.number(model.named("attention.value_length"))
    if values and values != head_size(model):
        raise _unread(model, f"its values have {values} elements a head, its keys others")


def _require_tensors(model: GgufModel) -> None:
    """Names and shapes are those that the sizes mean, no more and no less."""
    needed, optional = _expected_shapes(model)
    missing = [name for name in needed if name not in model.tensors]
    if missing:
        raise _damaged(model, f"it lacks {_listed(missing)}")
    known = needed | optional
    unknown = [name for name in model.tensors if name not in known]
    if unknown:
        raise _unread(model, f"it has weights that the reader leaves out: {_listed(unknown)}")
    for name, tensor in model.tensors.items():
        if tensor.shape != known[name]:
            raise _damaged(
                model, f"{name} is {_shape(tensor.shape)}, where {_shape(known[name])} is meant"
            )


def _expected_shapes(
    model: GgufModel,
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the tensors that are needed, and of those that may be there too."""
    hidden = model.number(model.named("embedding_length"))
    between = model.number(model.named("feed_forward_length"))
    heads = model.number(model.named("attention.head_count"))
    kv_heads = model.number(model.named("attention.head_count_kv")) or heads
    size = head_size(model)
    vocabulary = len(model.texts("tokenizer.ggml.tokens"))
    layer = {
        "attn_q": (heads * size, hidden),
        "attn_k": (kv_heads * size, hidden),
        "attn_v": (kv_heads * size, hidden),
        "attn_output": (hidden, heads * size),
        "ffn_gate": (between, hidden),
        "ffn_up": (between, hidden),
        "ffn_down": (hidden, between),
    }
    needed: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, hidden),
        "output_norm.weight": (hidden,),
    }
    optional: dict[str, tuple[int, ...]] = {
        "output.weight": (vocabulary, hidden),
        "rope_freqs.weight": (size // 2,),
    }
    normed = needed if model.architecture == "qwen3" else optional
    for number in range(model.number(model.named("block_count"))):
        block = f"blk.{number}"
        for name, shape in layer.items():
            needed[f"{block}.{name}.weight"] = shape
            optional[f"{block}.{name}.bias"] = shape[:1]
        for name in ("attn_norm", "ffn_norm"):
            needed[f"{block}.{name}.weight"] = (hidden,)
        for name in ("attn_q_norm", "attn_k_norm"):
            normed[f"{block}.{name}.weight"] = (size,)
    return needed, optional


def _require_kinds(model: GgufModel) -> None:
    unknown = {
        tensor.kind
        for tensor in model.tensors.values()
        if tensor.kind not in READ_KINDS | FLOATS and not _can_be_stored_anew(tensor)
    }
    if unknown:
        raise _unread(model, f"it holds weights in {', '.join(sorted(unknown))}")


def _can_be_stored_anew(tensor: Tensor) -> bool:
    try:
        dequantize(tensor.data[:1], GGMLQuantizationType[tensor.kind])
    except NotImplementedError:
        return False
    return True


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _unread(model: GgufModel, reason: str) -> ExportError:
    return ExportError(
        f"OpenVINO's GGUF reader cannot read {model.path}: {reason}", HUGGING_FACE_INSTEAD
    )


def _damaged(model: GgufModel, reason: str) -> ExportError:
    return ExportError(f"{model.path} is damaged: {reason}", "Download it again.")
