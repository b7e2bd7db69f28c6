"""The real model that ``make test-real`` has downloaded and exported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ov_kvcrush import LLMPipeline


def _named(variable: str) -> Path:
    if variable not in os.environ:
        pytest.fail(f"{variable} names nothing: run these tests with make test-real")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def real_gguf() -> Path:
    """Its GGUF file."""
    return _named("REAL_GGUF")


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The folder it was exported to."""
    return _named("REAL_MODEL")


@pytest.fixture(scope="session")
def real_pipeline(real_model: Path) -> LLMPipeline:
    return LLMPipeline(real_model, "CPU")
