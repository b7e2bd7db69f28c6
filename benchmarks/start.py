"""From the command to the first token: ours beside openvino_genai's, and where the time goes.

python benchmarks/start.py path/to/a/model --max-cache-size 1024

Each start is a process of its own. The sides take turns, in both orders; the first round, which
makes what is kept from start to start, does not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from ov_kvcrush.machine import LoadMeter

# What a program does: the clock at its beginning, with its imports, with its model, with a token.
_PROGRAM = """
import sys, time
times = [time.time()]
from {package} import LLMPipeline{more}
times.append(time.time())
pipe = LLMPipeline(sys.argv[1], "CPU"{given})
times.append(time.time())
def shown(_):
    times.append(time.time())
    return False
pipe.generate(sys.argv[2], max_new_tokens=4, streamer=shown)
print(*times[:4])
"""
_PARTS = ("interpreter", "imports", "model", "first token")

# The shortest program that shows an answer as it comes.
_SHORTEST = """
import sys, openvino_genai
pipe = openvino_genai.LLMPipeline(sys.argv[1], "CPU")
pipe.generate(sys.argv[2], max_new_tokens=4, streamer=lambda text: print(text, end="", flush=True))
"""

_COMMANDS = {
    "import ov_kvcrush": ["-c", "import ov_kvcrush"],
    "ov-kvcrush --help": ["-m", "ov_kvcrush", "--help"],
    "ov-kvcrush chat --help": ["-m", "ov_kvcrush", "chat", "--help"],
    "ov-kvcrush serve --help": ["-m", "ov_kvcrush", "serve", "--help"],
}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of an exported model")
    parser.add_argument("--prompt", default="What is the capital of France?")
    parser.add_argument("--max-cache-size", type=int, default=1024, help="(default 1024)")
    parser.add_argument("--rounds", type=int, default=7, help="that count (default 7)")
    options = parser.parse_args()

    asked = [str(options.model), options.prompt]
    chat = ["-m", "ov_kvcrush", "chat", asked[0], "--prompt", asked[1], "--max-new-tokens", "4"]
    budget = options.max_cache_size
    sides = {
        "openvino_genai": ["-c", _SHORTEST, *asked],
        "chat": chat,
        f"chat, {budget} tokens": [*chat, "--max-cache-size", str(budget)],
    }
    evicting = f", kv_cache_config=KVCacheConfig(max_cache_size={budget})"
    programs = {
        "openvino_genai": _program("openvino_genai"),
        "ov_kvcrush": _program("ov_kvcrush"),
        f"ov_kvcrush, {budget} tokens": _program("ov_kvcrush", ", KVCacheConfig", evicting),
    }
    load = LoadMeter()
    firsts: dict[str, list[float]] = {name: [] for name in sides}
    parts: dict[str, list[list[float]]] = {name: [] for name in programs}
    for turn in range(options.rounds + 1):
        order = 1 if turn % 2 else -1
        for name in list(sides)[::order]:
            seconds = _until_first_byte(sides[name])
            firsts[name] += [seconds] if turn else []
        for name in list(programs)[::order]:
            seconds_of_parts = _parts(["-c", programs[name], *asked])
            parts[name] += [seconds_of_parts] if turn else []
    print(f"{options.model}: seconds from the command to the first token")
    for name, seconds_of in firsts.items():
        _print_row(name, seconds_of, firsts["openvino_genai"])
    print("the same as programs, and their parts")
    for name, rows in parts.items():
        of_genai = [sum(row) for row in parts["openvino_genai"]]
        by_part = zip(_PARTS, zip(*rows, strict=True), strict=True)
        told = (f"{part} {median(times):.3f}" for part, times in by_part)
        _print_row(name, [sum(row) for row in rows], of_genai, "  ".join(told))
    print("without a model")
    for name, command in _COMMANDS.items():
        _print_row(name, [_until_end(command) for _ in range(options.rounds)])
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def _program(package: str, more: str = "", given: str = "") -> str:
    return _PROGRAM.format(package=package, more=more, given=given)


def _until_first_byte(arguments: Sequence[str]) -> float:
    begun = time.perf_counter()
    with _started(arguments) as process:
        if process.stdout is None or not os.read(process.stdout.fileno(), 1):
            raise SystemExit("a side has said nothing; run it by itself to see why")
        seconds = time.perf_counter() - begun
        process.communicate()
    return seconds


def _parts(arguments: Sequence[str]) -> list[float]:
    begun = time.time()
    with _started(arguments) as process:
        clocks = [begun, *map(float, process.communicate()[0].split())]
    return [later - earlier for earlier, later in pairwise(clocks)]


def _until_end(arguments: Sequence[str]) -> float:
    begun = time.perf_counter()
    with _started(arguments) as process:
        process.communicate()
    return time.perf_counter() - begun


def _started(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _print_row(
    name: str, seconds: Sequence[float], of_genai: Sequence[float] = (), told: str = ""
) -> None:
    ratio = f"{median(seconds) / median(of_genai):5.2f}" if of_genai else " " * 5
    spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
    print(f"  {name:<26}{median(seconds):7.3f} ({spread}) {ratio}  {told}".rstrip())


if __name__ == "__main__":
    main()
