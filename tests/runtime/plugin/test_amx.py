"""AMX is left alone where the processor does not say how its tiles are made, and only there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ov_kvcrush.runtime.plugin.amx import avoid_undescribed_tiles, has_amx

LIMIT = "ONEDNN_MAX_CPU_ISA"


@pytest.mark.parametrize(
    ("level", "flags", "limit"),
    [
        (28, "avx512f amx_bf16 amx_tile amx_int8", "AVX512_CORE_FP16"),
        (29, "avx512f amx_bf16 amx_tile amx_int8", None),
        (22, "avx2 avx512f", None),
    ],
)
def test_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int, flags: str, limit: str | None
) -> None:
    # Set first, so that what the call leaves behind is undone as well.
    monkeypatch.setenv(LIMIT, "")
    monkeypatch.delenv(LIMIT)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\ncpuid level\t: {level}\nflags\t\t: fpu {flags}\n\n")
    avoid_undescribed_tiles(cpuinfo)
    assert os.environ.get(LIMIT) == limit


def test_the_users_own_limit_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "AVX2")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("cpuid level\t: 28\nflags\t\t: amx_tile\n")
    avoid_undescribed_tiles(cpuinfo)
    assert os.environ[LIMIT] == "AVX2"


def test_an_unknown_system_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "")
    monkeypatch.delenv(LIMIT)
    avoid_undescribed_tiles(tmp_path / "none")
    assert LIMIT not in os.environ


@pytest.mark.parametrize(
    ("level", "flags", "limit", "found"),
    [
        (29, "avx512f amx_bf16 amx_tile", "", True),
        (29, "avx512f amx_bf16 amx_tile", "AVX512_CORE_AMX", True),
        (29, "avx512f amx_bf16 amx_tile", "AVX512_CORE_FP16", False),
        (28, "avx512f amx_bf16 amx_tile", "", False),
        (29, "avx512f avx512_bf16", "", False),
    ],
)
def test_amx_is_there_where_it_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int, flags: str, limit: str, found: bool
) -> None:
    monkeypatch.setenv(LIMIT, limit)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\ncpuid level\t: {level}\nflags\t\t: fpu {flags}\n\n")
    assert has_amx(cpuinfo) == found
    assert not has_amx(tmp_path / "none")
