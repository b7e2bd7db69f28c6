"""What a calibration may be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export import CalibrationOptions
from ov_kvcrush.export.kv_plan import target

FOLDER = Path("model")


def test_shares_and_gate_are_measured_and_precisions_where_they_are_asked_for() -> None:
    assert CalibrationOptions(FOLDER).measures == {"shares", "gate"}
    assert CalibrationOptions(FOLDER, kv_plan="auto").measures == {"shares", "gate", "kv-plan"}
    assert CalibrationOptions(FOLDER, ("gate", "kv-plan")).measures == {"gate", "kv-plan"}
    assert CalibrationOptions(FOLDER, ("gate", "kv-plan")).chosen_plan == "auto"
    assert CalibrationOptions(FOLDER, ("kv-plan",), kv_plan="kv.json").chosen_plan == "kv.json"
    assert CalibrationOptions(FOLDER).chosen_plan is None


@pytest.mark.parametrize(
    ("only", "settings", "message", "hint"),
    [
        (("gates",), {}, "--only 'gates' is not known", "Did you mean 'gate'?"),
        (("all",), {}, "--only 'all' is not known", "Known: gate, kv-plan, shares."),
        (("gate",), {"kv_plan": "auto"}, "leaves the precisions as they are", "--only kv-plan"),
        ((), {"max_drop": 0.1}, "--max-drop is for a plan", "Add --kv-plan auto."),
        (("kv-plan",), {"max_drop": -1.0}, "--max-drop is -1, not above 0", ""),
        (
            ("kv-plan",),
            {"max_drop": 0.1, "kv_bytes_per_token": 500.0},
            "two targets for one plan",
            "Give the one",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    only: tuple[str, ...], settings: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        CalibrationOptions(FOLDER, only, **settings)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_calibrating_precisions_says_which_package_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target.require_nncf()
    monkeypatch.setattr(target, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package nncf"):
        target.require_nncf()
