"""Models of random weights: made whole, once, with what a calibrated model has."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush.benchmark.random_models import SHAPES, default_folder, make_random_model
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.gate import Gate
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.progress import Silent


def test_a_model_is_made_whole_and_once(tmp_path: Path) -> None:
    folder = make_random_model("tiny", tmp_path / "kept", Silent())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["tiny"]
    plan, gate = KVPlan.load(folder), Gate.load(folder)
    assert plan is not None
    assert len(plan.layers) == SHAPES["tiny"].layers
    assert plan.context_length == 32768
    assert gate is not None
    assert gate.is_trusted
    made = folder.stat().st_ino
    assert make_random_model("tiny", tmp_path / "kept", Silent()) == folder
    assert folder.stat().st_ino == made


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown random model 'moe'"):
        make_random_model("moe", tmp_path, Silent())


def test_they_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "ov-kvcrush" / "random-models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "ov-kvcrush" / "random-models"
