"""Models that many tests share: exported once, by the package itself, into build/test-models."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.gate import Gate
from ov_kvcrush.plan import PLAN_FILE, KVPlan
from tests.support import model_factory
from tests.support.engines import EXACT
from tests.support.gates import gated
from tests.support.model_factory import make_model
from tests.support.paths import NEEDLE, ROOT

CACHE = ROOT / "build" / "test-models"

FOUR_LAYERS: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    # Larger weights than a new model's, so that attention is not the same everywhere.
    "initializer_range": 0.2,
}
"""What makes a random Llama large enough for every way to divide heads, and no larger."""

FOUR_LAYERS_SHARES = (
    (1.6, 0.7, 0.7, 1.0),
    (0.4, 0.6, 0.5, 0.5),
    (2.4, 0.6, 2.4, 0.6),
    (1.0, 1.0, 1.0, 1.0),
)
"""Of its heads in a budget: some alike, none of them, all of them."""

_DAY = 24 * 60 * 60
_KEY_LENGTH = 12


def exported_needle(name: str, **settings: Any) -> Path:
    """The repository's model; ``settings`` are its ``ExportOptions``'.

    It is made again only when something it depends on has changed.
    """
    return _exported(name, None, {}, settings)


def exported_needle_f32(folder: Path, calibrated: Path) -> Path:
    """Let ``folder`` hold the repository's model without any loss, KV cache f32/f32.

    What was measured of ``calibrated``, another export of it, is not measured once more.
    """
    source = exported_needle("needle-f32", weight_format="fp32", calibrate=False, **EXACT)
    for path in source.iterdir():
        if path.name != PLAN_FILE:
            (folder / path.name).symlink_to(path)
    plan, measured, gate = KVPlan.load(source), KVPlan.load(calibrated), Gate.load(calibrated)
    assert plan is not None
    assert measured is not None
    assert gate is not None
    replace(gate, fingerprint=plan.fingerprint).save(folder)
    replace(
        plan,
        head_shares=measured.head_shares,
        share_measurement=measured.share_measurement,
        gate_measurement=measured.gate_measurement,
    ).save(folder)
    return folder


def exported_random(architecture: str, **changes: Any) -> Path:
    """A model of ``make_model`` without any loss, KV cache f32/f32, not calibrated."""
    settings = {"weight_format": "fp32", "calibrate": False, **EXACT}
    shape = hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:4]
    return _exported(f"random-{architecture}-{shape}", architecture, changes, settings)


def exported_plain(folder: Path) -> Path:
    """Let ``folder`` hold a random Llama in int8 as others publish models: without a KV plan."""
    settings = {"weight_format": "int8", "calibrate": False}
    source = _exported("random-Llama-int8", "Llama", {}, settings)
    for path in source.iterdir():
        if path.name != PLAN_FILE:
            (folder / path.name).symlink_to(path)
    return folder


def exported_four_layers(folder: Path) -> Path:
    """Let ``folder`` hold a random Llama without any loss, with a gate and uneven heads."""
    source = exported_random("Llama", **FOUR_LAYERS)
    plan = KVPlan.load(source)
    assert plan is not None
    gated(folder, source)
    (folder / PLAN_FILE).unlink()
    replace(plan, head_shares=FOUR_LAYERS_SHARES).save(folder)
    return folder


def _exported(
    name: str, architecture: str | None, changes: dict[str, Any], settings: dict[str, Any]
) -> Path:
    """``export_model`` lets the folder appear whole or not at all.

    The lock keeps two test runs at the same time from making it twice.
    """
    output = CACHE / f"{name}-{_key(architecture, changes, settings)}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock, tempfile.TemporaryDirectory() as made:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            source = NEEDLE
            if architecture is not None:
                source = make_model(Path(made) / "source", architecture, **changes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's
                export_model(ExportOptions(model=str(source), output=output, **settings))
            _remove_outdated(name, output)
    return output


def _remove_outdated(name: str, newest: Path) -> None:
    # Not the recent ones: a test run that began before the last change may still use them.
    for folder in CACHE.glob(f"{name}-{'?' * _KEY_LENGTH}"):
        if folder != newest and time.time() - folder.stat().st_mtime > _DAY:
            shutil.rmtree(folder)


def _key(architecture: str | None, changes: dict[str, Any], settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    if architecture is not None:
        digest.update(repr([architecture, sorted(changes.items())]).encode())
        digest.update(Path(model_factory.__file__).read_bytes())
    for package in ("openvino", "openvino-tokenizers", "optimum-intel", "nncf", "transformers"):
        digest.update(version(package).encode())
    made_by = [path for path in (ROOT / "export").rglob("*") if path.suffix in (".py", ".txt")]
    made_by.append(ROOT / "ov_kvcrush" / "plan.py")
    for path in [*sorted(made_by), *sorted(NEEDLE.iterdir())]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_KEY_LENGTH]
