"""The tokenizer that openvino_genai made of a GGUF file: set right, and tried."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.gguf.description import chat_template, control_tokens
from ov_kvcrush.export.gguf.model_file import HUGGING_FACE_INSTEAD, GgufModel
from ov_kvcrush.export.gguf.splits import BEGUN, SPLITS
from ov_kvcrush.model_folder import TOKENIZER_FILES, load_tokenizer
from ov_kvcrush.progress import Progress

_SAMPLES = (
    "Hello, world!",
    "  Two spaces, a tab\tand two lines\n\nwith 1,234.56 € – naïve café, 日本語 и русский 🙂",
)
# Beyond it openvino_genai computes with numbers below 0.
_LONGEST = np.iinfo(np.int32).max - 64


def correct_tokenizer(model: GgufModel, folder: Path) -> None:
    """Let the tokenizer in ``folder`` split, begin and show texts as the file means it.

    The reader's splits as two families do and all others in a way of its own, keeps the last 8,192
    tokens of a text without a word, begins none, and leaves out of answers also tokens that are
    text, such as ``<think>`` and ``<tool_call>``.

    Raises:
        ExportError: the tokenizer is not as the reader of this release makes it.
    """
    import openvino_tokenizers  # noqa: F401  teaches OpenVINO its operations

    encoder, decoder = (ov.Core().read_model(folder / name) for name in TOKENIZER_FILES)
    _split_by(encoder, SPLITS[model.text("tokenizer.ggml.pre")])
    _keep_all_tokens(encoder)
    if begins_texts(model):
        _begin_with(encoder, model.number("tokenizer.ggml.bos_token_id"))
    _leave_out(decoder, control_tokens(model))
    for graph, name in zip((encoder, decoder), TOKENIZER_FILES, strict=True):
        ov.save_model(graph, folder / f"new_{name}", compress_to_fp16=False)
    del encoder, decoder, graph  # which have the old files mapped
    for name in TOKENIZER_FILES:
        for file in (name, Path(name).with_suffix(".bin").name):
            os.replace(folder / f"new_{file}", folder / file)


def begins_texts(model: GgufModel) -> bool:
    """Whether a text begins with a token of its own, where no chat template begins it."""
    if not model.has("tokenizer.ggml.bos_token_id"):
        return False
    # llama.cpp's own rule for files that do not say.
    usual = model.text("tokenizer.ggml.pre") in BEGUN
    return model.flag("tokenizer.ggml.add_bos_token", usual)


def try_tokenizer(model: GgufModel, folder: Path, progress: Progress) -> None:
    """Read texts and special tokens with the tokenizer in ``folder``, and tell what goes wrong.

    Raises:
        ModelError: openvino_genai cannot load it.
        ExportError: a special token is not read as one.
    """
    if not chat_template(model):
        progress.note("the model holds no chat template: chats with it need one")
    tokenizer = load_tokenizer(folder)
    tokens = model.texts("tokenizer.ggml.tokens")
    for number in control_tokens(model):
        if _ids(tokenizer, tokens[number]) != [number]:
            raise ExportError(
                f"OpenVINO's tokenizer does not read {tokens[number]!r} of {model.path} as one "
                "token",
                HUGGING_FACE_INSTEAD,
            )
    for text in _SAMPLES:
        if tokenizer.decode(_ids(tokenizer, text), skip_special_tokens=False) != text:
            progress.note(f"OpenVINO's tokenizer does not give back {text!r} as it is")


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]
    return [int(number) for number in ids]


def _split_by(graph: ov.Model, patterns: tuple[str, ...]) -> None:
    nodes = [node for node in graph.get_ordered_ops() if node.get_type_name() == "RegexSplit"]
    if len(nodes) < len(patterns):
        raise _unknown("how it splits texts")
    for node, pattern in zip(nodes, patterns, strict=False):
        stored = ops.constant(np.frombuffer(pattern.encode(), np.uint8))
        node.input(node.get_input_size() - 1).replace_source_output(stored.output(0))
    for node in nodes[len(patterns) :]:
        for port, output in enumerate(node.outputs()):
            for user in output.get_target_inputs():
                user.replace_source_output(node.input_value(port))


def _keep_all_tokens(graph: ov.Model) -> None:
    limits = [
        node.input(port)
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Minimum"
        for port in range(2)
        if node.input_value(port).get_node().get_type_name() == "Constant"
    ]
    if len(limits) != 1:
        raise _unknown("the number of tokens it keeps")
    limits[0].replace_source_output(ops.constant(_LONGEST, ov.Type.i32).output(0))


def _begin_with(graph: ov.Model, token: int) -> None:
    from openvino_tokenizers.tokenizer_pipeline import AddToken, CombineSegmentsStep, Sequence

    padding = [node for node in graph.get_ordered_ops() if node.get_type_name() == "RaggedToDense"]
    if len(padding) != 1:
        raise _unknown("the end of its steps")
    longest = padding[0].input_value(3).get_node()
    lengths = longest.input_value(0).get_node()
    texts = [padding[0].input_value(port) for port in range(3)]  # begins, ends, tokens
    # openvino_genai looks for this behind the step that cuts long texts off, to switch it.
    steps = CombineSegmentsStep([AddToken(_token_id=token), Sequence()])
    begins, ends, tokens, *_ = steps.get_ov_subgraph(texts)
    for port, output in enumerate((begins, ends, tokens)):
        padding[0].input(port).replace_source_output(output)
    for port, output in enumerate((ends, begins)):
        lengths.input(port).replace_source_output(output)


def _leave_out(graph: ov.Model, tokens: list[int]) -> None:
    """Of decoded texts, where special tokens are to be skipped."""
    skipped = [
        node.input(0)
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Slice"
        and node.input_value(0).get_node().get_type_name() == "Constant"
    ]
    if len(skipped) != 1:
        raise _unknown("the list of special tokens")
    listed = ops.constant(np.array(tokens, np.int32))
    skipped[0].replace_source_output(listed.output(0))


def _unknown(what: str) -> ExportError:
    return ExportError(
        f"OpenVINO's GGUF reader made another tokenizer than expected: {what} is not found",
        "Install the openvino-genai release that ov-kvcrush names in its dependencies.",
    )
