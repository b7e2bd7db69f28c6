"""The models the scripts run on: random weights of a set shape, made here once and kept."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.benchmark.random_models import (
    SHAPES,
    VOCABULARY,
    Shape,
    make_model_of_shape,
    make_random_model,
)
from ov_kvcrush.benchmark.workload import random_tokens
from ov_kvcrush.cli.output.progress import StepProgress

__all__ = ["NEEDLE", "SHAPES", "model_folder", "model_of_layers", "tokens"]

_ROOT = Path(__file__).resolve().parents[2]
CACHE = _ROOT / "build" / "benchmarks"
NEEDLE = _ROOT / "samples" / "models" / "needle"
"""The trained small model of the repository, as Hugging Face would publish it."""


def model_folder(name: str) -> Path:
    """The exported model called ``name`` in ``SHAPES``, made if it is not there yet."""
    with StepProgress("Make the model") as progress:
        return make_random_model(name, CACHE, progress)


def model_of_layers(count: int) -> Path:
    """A model of ``count`` narrow layers, whose inferences take next to nothing."""
    shape = Shape(count, 64, 4, 2, 64)
    with StepProgress("Make the model") as progress:
        return make_model_of_shape(shape, CACHE / f"layers-{count}", progress)


def tokens(count: int, seed: int) -> list[int]:
    """Token ids that all of these models know; other seeds share no beginning."""
    return random_tokens(count, seed, VOCABULARY)
