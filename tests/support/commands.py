"""Commands run in this process."""

from __future__ import annotations

import re

import pytest

from ov_kvcrush.cli import run

STATS = re.compile(
    r"TTFT [\d,.]+ ms · (?:TPOT [\d,.]+ ms · )?"
    r"(?P<prompt>[\d,]+) in(?: \((?P<reused>[\d,]+) reused\))?"
    r" · KV (?P<kept>[\d,]+) tokens(?: \(budget (?P<budget>[\d,]+)(?: \+ [\d,]+ slack)?\))?"
    r", [\d,.]+ MB(?: of [\d,.]+ MB)?"
    r", K u8 V u8(?:, (?P<evicted>[\d,]+) evicted)?\n"
)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What stderr says after a command that ended with 2 and printed nothing else."""
    assert run([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") <= 2
    return err


def stats(screen: str) -> dict[str, int]:
    """The numbers of the one stats line in ``screen``; those it leaves out are 0."""
    found = [match.groupdict() for match in STATS.finditer(screen)]
    assert len(found) == 1, screen
    return {name: int((value or "0").replace(",", "")) for name, value in found[0].items()}
