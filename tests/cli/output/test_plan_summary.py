"""What an export or a calibration prints of what it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ov_kvcrush.cli.output.plan_summary import print_summary, print_summary_as_json
from ov_kvcrush.export.weight_speeds import WeightSpeed
from ov_kvcrush.model_folder import TEMPLATE_FILE
from tests.support.plans import plan_of, with_shares


def test_budgets_are_in_the_summary_where_they_were_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(plan_of(0, 0), tmp_path)
    assert "Layer budgets" not in capsys.readouterr().out
    print_summary(with_shares((0.5, 1.0), (1.0, 1.5)), tmp_path)
    assert "  Head budgets  " in capsys.readouterr().out
    print_summary_as_json(with_shares((0.5, 1.0), (1.0, 1.5)), tmp_path)
    summary = json.loads(capsys.readouterr().out)
    assert summary["head_shares"] == [[0.5, 1.0], [1.0, 1.5]]
    assert summary["layer_shares"] == [0.75, 1.25]


def test_a_sliding_window_bounds_what_a_layer_takes_with_a_budget(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_summary_as_json(plan_of(0, 128, 10_000), Path("model"), is_estimate=False)
    summary = json.loads(capsys.readouterr().out)
    assert summary["budget"] == 1024
    assert summary["kv_bytes_at"] == {"1024": 307_200, "8192": 2_457_600, "32768": 9_830_400}
    # The budget is for the first layer; the others hold their windows and a page that slides out.
    assert summary["kv_bytes_with_budget"] == {
        "8192": 100 * (1024 + 128 + 32 + 8192),
        "32768": 100 * (1024 + 128 + 32 + 10_000 + 32),
    }


def test_weight_formats_are_told_in_multiples_of_int8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = {
        "int4": WeightSpeed(0.003, 0.055),
        "int8": WeightSpeed(0.004, 0.05),
        "fp16": WeightSpeed(0.008, 0.04),
    }
    print_summary(plan_of(0), tmp_path, speeds=speeds)
    told = "int4 0.75 and 1.10, fp16 2.00 and 0.80 of int8's time for a token and for a prompt"
    assert told in " ".join(capsys.readouterr().out.split())
    print_summary_as_json(plan_of(0), tmp_path, speeds=speeds)
    summary = json.loads(capsys.readouterr().out)
    assert summary["weight_speeds"]["int4"] == {"token": 0.003, "prompt": 0.055}


def test_chat_is_recommended_only_where_there_is_a_chat_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(plan_of(0), tmp_path, is_estimate=False)
    assert "Next:" not in capsys.readouterr().out
    (tmp_path / TEMPLATE_FILE).touch()
    print_summary(plan_of(0), tmp_path, is_estimate=False)
    assert f"Next: ov-kvcrush chat {tmp_path} --max-cache-size 1024" in capsys.readouterr().out
