"""The gate of a model: a student that a teacher has taught with passages of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.export.gate.student import Floats, Student, floored
from ov_kvcrush.export.gate.teacher import Lesson, Teacher
from ov_kvcrush.gate import Gate
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.model.paged_model import PagedModel

# All tokens of a text are learnt from, unless their states take more memory than this.
_STATE_BYTES = 512e6
# Sums of all layers in f64 take no more than this; else they are in f32.
_SUM_BYTES = 1e9


@dataclass(frozen=True, eq=False)
class GateMeasurement:
    """A gate, and how well it does.

    Attributes:
        gate: without the model's fingerprint. Zeros for layers with a sliding window, which have no
            budget.
        correlation: by layer, of its scores with the teacher's on the passages held back: the mean
            over passages and KV heads. NaN for layers with a sliding window, and where nothing was
            held back.
    """

    gate: Gate
    correlation: tuple[float, ...]


def measure_gate(
    model: PagedModel,
    passages: Sequence[Sequence[int]],
    held: Sequence[Sequence[int]],
    progress: Progress,
    *,
    instruction: Sequence[int] = (),
    seed: int = 0,
) -> GateMeasurement:
    """Fit a gate on ``passages`` and check it on ``held``.

    Args:
        model: compiled with ``shows_states``, without a cache; it gets one here, and serves nothing
            else afterwards.
        passages: token ids of texts. Each is read twice, so that the model has to be able to read
            twice as many tokens, and the instruction.
        held: others.
        progress: is told which share of the passages has been read.
        instruction: ``INSTRUCTION`` in the model's tokens.
        seed: says which tokens of a passage are learnt from, where there is no room for all.

    Raises:
        UnsupportedError: no layer has a budget, so that there is nothing to choose.
    """
    free = [n for n, layer in enumerate(model.layers) if not layer.sliding_window]
    if not free:
        raise UnsupportedError("every layer has a sliding window, and nothing to choose from")
    texts = [*passages, *held]
    teacher = Teacher(model, instruction)
    teacher.reserve(max(map(len, texts)))
    rng = np.random.default_rng(seed)
    students: dict[int, Student] = {}
    fitted: dict[int, tuple[Floats, Floats]] = {}
    found = []
    for number, text in enumerate(texts):
        if number == len(passages):
            fitted = {n: student.solve() for n, student in students.items()}
        rows = np.sort(rng.permutation(len(text))[: _num_rows(model)])
        lesson = teacher.teach(text, rows)
        if number < len(passages):
            students = students or _students(model, lesson, free)
            for n, student in students.items():
                student.learn(lesson.states[n], lesson.scores[n][:, rows].T)
        else:
            found.append([_correlation(*fitted[n], lesson, n, rows) for n in free])
        progress.advance((number + 1) / len(texts))
    fitted = fitted or {n: student.solve() for n, student in students.items()}
    correlation = np.full(len(model.layers), np.nan)
    if found:
        correlation[free] = np.mean(found, axis=0)
    return GateMeasurement(_gate(model, fitted), tuple(correlation.tolist()))


def _num_rows(model: PagedModel) -> int:
    hidden = sum(len(gram) * gram.shape[1] for gram in model.output_grams)  # about
    return max(64, int(_STATE_BYTES / (4 * hidden)))


def _students(model: PagedModel, lesson: Lesson, free: Sequence[int]) -> dict[int, Student]:
    sizes = {n: lesson.states[n].shape[1] for n in free}
    exact = sum(8 * size**2 for size in sizes.values()) <= _SUM_BYTES
    return {n: Student(size, model.layers[n].num_kv_heads, exact) for n, size in sizes.items()}


def _correlation(
    weights: Floats, biases: Floats, lesson: Lesson, n: int, rows: NDArray[np.int64]
) -> float:
    told, wanted = (lesson.states[n] @ weights + biases).T, floored(lesson.scores[n][:, rows])
    return float(np.mean([_pearson(a, b) for a, b in zip(told, wanted, strict=True)]))


def _pearson(a: Floats, b: Floats) -> float:
    """0 where one of them is the same everywhere."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size else 0.0


def _gate(model: PagedModel, fitted: dict[int, tuple[Floats, Floats]]) -> Gate:
    some_weights, _ = next(iter(fitted.values()))
    weights, biases = [], []
    for n, layer in enumerate(model.layers):
        nothing = np.zeros((len(some_weights), layer.num_kv_heads), np.float32)
        weight, bias = fitted.get(n, (nothing, np.zeros(layer.num_kv_heads, np.float32)))
        weights.append(weight)
        biases.append(bias)
    return Gate(tuple(weights), tuple(biases), fingerprint="")
