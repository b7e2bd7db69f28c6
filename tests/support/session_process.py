"""A process of its own that goes on from session files: JSON cases in, generated tokens out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import TOKEN, bare_engine, finish, greedy
from tests.support.paths import ROOT

CUT_OFTEN = {**TOKEN, "decode_slack": 16}
ABOUT = {"kind": "chat", "messages": []}
"""What is written beside a cache."""


def ask(engine: PagedEngine, session: Session, new: list[int], count: int = 40) -> list[int]:
    """Continue what ``session`` holds with ``new`` tokens; the answer."""
    prompt = [*session.token_ids, *new]
    (answer,) = finish(engine, engine.add_request(prompt, greedy(count), session))
    return answer


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
        engine = bare_engine(case["folder"], **case["settings"])
        session = load(engine, case["path"])
        answers.append([ask(engine, session, turn) for turn in case["turns"]])
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
