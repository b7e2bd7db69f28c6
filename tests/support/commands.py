"""Commands run in this process."""

from __future__ import annotations

import pytest

from ov_kvcrush.cli import run


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What stderr says after a command that ended with 2 and printed nothing else."""
    assert run([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") <= 2
    return err
