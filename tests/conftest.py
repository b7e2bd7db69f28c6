"""Models that many tests share: exported once, by the package itself, into build/test-models."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.plan import PLAN_FILE
from tests.support.model_factory import make_model
from tests.support.paths import NEEDLE, ROOT
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

CACHE = ROOT / "build" / "test-models"

_DAY = 24 * 60 * 60


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
    return _exported("needle-int8", weight_format="int8")


@pytest.fixture(scope="session")
def needle_f32_dir(compiled_loops: None) -> Path:
    """It exported without any loss; KV cache f32/f32."""
    return _exported(
        "needle-f32",
        weight_format="fp32",
        key_cache_precision="f32",
        value_cache_precision="f32",
    )


@pytest.fixture(scope="session")
def tiny_source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, as Hugging Face would publish it."""
    return make_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def plain_dir(tiny_source_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as others publish models for OpenVINO: without a KV plan. Not to be written to."""
    folder = tmp_path_factory.mktemp("plain") / "plain"
    options = ExportOptions(
        model=str(tiny_source_dir), output=folder, weight_format="int8", calibrate=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's
        export_model(options)
    (folder / PLAN_FILE).unlink()
    return folder


def _exported(name: str, **settings: Any) -> Path:
    """Export of the repository's model, made again only when something it depends on has changed.

    ``export_model`` lets the folder appear whole or not at all; the lock keeps two test runs at the
    same time from making it twice.
    """
    output = CACHE / f"{name}-{_key(settings)}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's
                export_model(ExportOptions(model=str(NEEDLE), output=output, **settings))
            _remove_outdated(name, output)
    return output


def _remove_outdated(name: str, newest: Path) -> None:
    # Not the recent ones: a test run that began before the last change may still use them.
    for folder in CACHE.glob(f"{name}-*"):
        if folder != newest and time.time() - folder.stat().st_mtime > _DAY:
            shutil.rmtree(folder)


def _key(settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for package in ("openvino", "openvino-tokenizers", "optimum-intel", "nncf", "transformers"):
        digest.update(version(package).encode())
    made_by = [path for path in (ROOT / "export").rglob("*") if path.suffix in (".py", ".txt")]
    made_by.append(ROOT / "ov_kvcrush" / "plan.py")
    for path in [*sorted(made_by), *sorted(NEEDLE.iterdir())]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
