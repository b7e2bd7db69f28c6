"""What the teacher says of a text, against PyTorch's own attention."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.export.gate import teacher as module
from ov_kvcrush.export.gate.teacher import Teacher
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from tests.support.engines import F32, prompt_of
from tests.support.exported import exported_random
from tests.support.model_factory import make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's

# Larger weights than a new model's, so that attention is not the same everywhere.
CHANGES: dict[str, Any] = {"initializer_range": 0.2}
TEXT, INSTRUCTION = prompt_of(70, 1), prompt_of(9, 2)
ROWS = np.array([0, 3, 31, 32, 64, 69])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("source") / "model", **CHANGES)


@pytest.fixture(scope="module")
def folder() -> Path:
    return exported_random("Llama", **CHANGES)


def shown(folder: Path, kind: str = "f32", group: int = 0) -> PagedModel:
    precision = LayerPrecision(kind, kind, value_group_size=group)
    return PagedModel(folder, precisions=precision, properties=F32, shows_states=True)


def taught(model: PagedModel, **settings: bool) -> module.Lesson:
    teacher = Teacher(model, INSTRUCTION, **settings)
    teacher.reserve(len(TEXT))
    return teacher.teach(TEXT, ROWS)


@torch.no_grad()
def wanted(
    source: Path, weighs_values: bool
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float64]]]:
    """States and scores, as in a lesson."""
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    )
    states: list[torch.Tensor] = []
    values: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        states.append(args[0][0])
        values.append(out[0])

    for layer in model.model.layers:
        layer.self_attn.v_proj.register_forward_hook(keep)
    tokens = torch.tensor([[*TEXT, *INSTRUCTION, *TEXT]])
    told = model(tokens, output_attentions=True, output_hidden_states=True)
    scores, size = [], len(TEXT)
    for n, layer in enumerate(model.model.layers):
        attention = told.attentions[n][0, :, size + len(INSTRUCTION) :, :size].double()
        heads, head_size = len(attention), layer.self_attn.head_dim
        if weighs_values:
            residual = told.hidden_states[n][0, size + len(INSTRUCTION) :].double()
            sizes = residual.norm(dim=1)
            # What has no stream tells nothing.
            attention = attention * torch.where(sizes > 0, 1 / sizes, 0.0)[:, None]
            value = values[n][:size].reshape(size, -1, head_size).repeat_interleave(2, dim=1)
            output = layer.self_attn.o_proj.weight.reshape(-1, heads, head_size)
            added = torch.einsum("thd,ohd->hto", value.double(), output.double()).norm(dim=2)
            attention = attention * added[:, None]
        highest = attention.amax(dim=1).reshape(2, -1, size).amax(dim=1)
        scores.append(highest.log().numpy())
    return [state[ROWS].numpy() for state in states], scores


@pytest.mark.parametrize("weighs_values", [True, False])
def test_scores_are_the_highest_attention_of_a_repetition(
    folder: Path, source: Path, weighs_values: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks that end inside text, instruction and repetition.
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 25)
    states, scores = wanted(source, weighs_values)
    lesson = taught(shown(folder), weighs_values=weighs_values)
    for found, state in zip(lesson.states, states, strict=True):
        assert found.shape == state.shape == (len(ROWS), 64)
        np.testing.assert_allclose(found, state, atol=1e-4)
    for found, score in zip(lesson.scores, scores, strict=True):
        assert found.shape == score.shape == (2, len(TEXT))
        assert np.std(score) > 0.3
        np.testing.assert_allclose(found, score, atol=1e-3)


def test_a_token_that_is_embedded_as_zeros_tells_nothing(source: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.model.embed_tokens.weight.data[TEXT[20]] = 0.0
    changed, output = tmp_path / "source", tmp_path / "model"
    shutil.copytree(source, changed)
    model.save_pretrained(changed)
    export_model(ExportOptions(str(changed), output, weight_format="fp32", calibrate=False))
    _, scores = wanted(changed, weighs_values=True)
    lesson = taught(shown(output))
    # Its own value adds nothing in the first layer: as good as no score at all.
    for found, score in zip(lesson.scores, scores, strict=True):
        assert np.isfinite(found).all()
        others = np.flatnonzero(np.array(TEXT) != TEXT[20])
        np.testing.assert_allclose(found[:, others], score[:, others], atol=1e-3)


@pytest.mark.parametrize(("kind", "group"), [("u8", 0), ("u8", 8), ("u4", 0)])
def test_a_quantized_cache_teaches_nearly_the_same(folder: Path, kind: str, group: int) -> None:
    exact, found = taught(shown(folder)), taught(shown(folder, kind, group))
    for a, b in zip(exact.scores, found.scores, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > (0.999 if kind == "u8" else 0.8)


def test_a_second_text_finds_nothing_of_the_first(folder: Path) -> None:
    model = shown(folder)
    teacher = Teacher(model, INSTRUCTION)
    teacher.reserve(len(TEXT))
    first = teacher.teach(TEXT, ROWS)
    teacher.teach(prompt_of(60, 5), np.arange(60))
    again = teacher.teach(TEXT, ROWS)
    for a, b in zip(first.scores, again.scores, strict=True):
        np.testing.assert_array_equal(a, b)
