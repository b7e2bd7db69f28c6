"""Loops are compiled at the start: what a policy needs, once, and not in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMPILE = """
from ov_kvcrush.runtime.eviction.compiling import compile_loops
from ov_kvcrush.runtime.eviction.measuring import attention_mass, key_distinctiveness
from ov_kvcrush.runtime.eviction.moving import move_tokens, place

compile_loops(attention=False, distinctiveness=False)
compile_loops(attention=False, distinctiveness=False)
print([len(one.signatures) for one in (place, move_tokens, attention_mass, key_distinctiveness)])
"""


def test_the_first_start_says_so_and_compiles_what_is_needed(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", COMPILE],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    )
    assert first.stdout == second.stdout == "[1, 1, 0, 0]\n"
    (line,) = first.stderr.splitlines()
    assert line.startswith("compiling the loops that cut the KV cache")
    assert second.stderr == ""
