"""A process of its own that goes on from session files: JSON cases in, generated tokens out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from openvino_genai import GenerationConfig, Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.paths import ROOT


def engine_of(folder: Path | str, **settings: Any) -> PagedEngine:
    """An engine that keeps nothing unasked and reads 128 tokens at a time."""
    config = KVCacheConfig(**{"pool_size": 4096, "prefix_caching": False, **settings})
    return PagedEngine(
        folder, Tokenizer(folder), config=config, limits=EngineLimits(max_num_batched_tokens=128)
    )


def ask(engine: PagedEngine, session: Session, new: list[int], count: int = 40) -> list[int]:
    """Continue what ``session`` holds with ``new`` tokens; the answer."""
    config = GenerationConfig(max_new_tokens=count, ignore_eos=True)
    request = engine.add_request([*session.token_ids, *new], config, session)
    while not request.finished:
        engine.step()
        engine.check_integrity()
    return request.generations[0].tokens


def load(engine: PagedEngine, path: Path | str, session: Session | None = None) -> Session:
    session = session or Session()
    with engine.open_session(Path(path)) as stored:
        engine.load_session(stored, session)
    engine.check_integrity()
    return session


def continue_in_new_process(cases: list[dict[str, Any]]) -> list[list[list[int]]]:
    """For each case (folder, settings, path, turns) the answers to its turns."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.session_process"],
        input=json.dumps(cases),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[list[list[int]]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def main() -> None:
    answers = []
    for case in json.load(sys.stdin):
        engine = engine_of(case["folder"], **case["settings"])
        session = load(engine, case["path"])
        answers.append([ask(engine, session, turn) for turn in case["turns"]])
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
