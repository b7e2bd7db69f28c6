"""What holds for all tests, and the models that many of them share."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.exported import (
    exported_four_layers,
    exported_needle,
    exported_needle_f32,
    exported_plain,
)
from tests.support.model_factory import make_model
from tests.support.paths import NEEDLE
from tests.support.signal_stack import drop_signal_stack

# A background job of a shell ignores Ctrl+C, one of nohup SIGHUP, and so would every process that
# the tests start and stop.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# Examples are not timed: what else the machine does would fail them.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Collections leave out what is there from the beginning: packages, and the tests themselves.

    Optimum collects five times an export, which takes half a second each where all of them are in.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ordinary_signal_stack() -> None:
    """What other libraries' cores have left does not end the run at the next Ctrl+C."""
    drop_signal_stack()


@pytest.fixture(scope="session", autouse=True)
def few_passages() -> Iterator[None]:
    """Gates are fitted on the fewest passages: quickly, and on every machine alike."""
    from ov_kvcrush.export.calibration import gate_passages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_passages, "NUM_PASSAGES", gate_passages.NUM_PASSAGES[:1])
        yield


@pytest.fixture(scope="session")
def needle_source_dir() -> Path:
    """The trained small model of the repository, as Hugging Face would publish it."""
    return NEEDLE


@pytest.fixture(scope="session")
def compiled_loops() -> None:
    """Nobody has to compile them, nor say so, in the middle of a test."""
    from ov_kvcrush.runtime.eviction.compiling import compile_loops

    compile_loops(attention=True, distinctiveness=True)


@pytest.fixture(scope="session")
def needle_int8_dir(compiled_loops: None) -> Path:
    """It exported with int8 weights; KV cache u8/u8."""
    return exported_needle("needle-int8", weight_format="int8")


@pytest.fixture(scope="session")
def needle_f32_dir(needle_int8_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It exported without any loss; KV cache f32/f32."""
    return exported_needle_f32(tmp_path_factory.mktemp("needle-f32"), needle_int8_dir)


@pytest.fixture(scope="session")
def four_layers_dir(compiled_loops: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama for what does not depend on what a model has learnt; KV cache f32/f32.

    With a gate, and with heads of different shares in a budget.
    """
    return exported_four_layers(tmp_path_factory.mktemp("four-layers"))


@pytest.fixture(scope="session")
def tiny_source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, as Hugging Face would publish it."""
    return make_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def plain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama as others publish models for OpenVINO: without a KV plan."""
    return exported_plain(tmp_path_factory.mktemp("plain"))
