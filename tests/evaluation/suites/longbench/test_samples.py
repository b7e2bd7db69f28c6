"""LongBench's samples: prompts in two parts, what each task asks for, and where rows come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.evaluation.suites.longbench.prompts import LongBench
from ov_kvcrush.evaluation.suites.longbench.rows import HUB, SHIPPED_ROWS
from ov_kvcrush.evaluation.suites.longbench.samples import read_samples
from ov_kvcrush.evaluation.suites.longbench.tasks import METRIC_BY_TASK
from ov_kvcrush.evaluation.suites.metrics import METRICS
from tests.support.hub_server import serve

ROWS = [json.loads(line) for line in SHIPPED_ROWS.read_text(encoding="utf-8").splitlines()]


def row_of(task: str, **changes: Any) -> dict[str, Any]:
    row = {"dataset": task, "_id": task, "context": "Ann is 3.", "input": "Who?"}
    return row | {"answers": ["Ann"]} | changes


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_the_packages_own_rows_are_read_where_no_others_are_given() -> None:
    samples = read_samples()
    counts = Counter(sample.task for sample in samples)
    assert len(samples) == 55
    # All but two of the English tasks.
    assert set(METRIC_BY_TASK) - set(counts) == {"musique", "qmsum"}
    assert [sample.id for sample in samples] == [row["_id"] for row in ROWS]


def test_a_right_answer_scores_1_in_every_task() -> None:
    for sample in read_samples():
        (question,) = sample.questions
        assert METRICS[question.metric](question.answers[0], question) == pytest.approx(1)
        assert METRICS[question.metric]("", question) == 0


def test_context_and_question_are_the_prompt_that_longbench_makes() -> None:
    for row, sample in zip(ROWS, read_samples(), strict=True):
        (question,) = sample.questions
        assert sample.context.endswith(row["context"])
        assert sample.context + question.text == LongBench().prompt(row).text
        assert row["input"] in question.text
        assert question.answers == tuple(row["answers"])
        assert question.classes == tuple(row["all_classes"] or ())


@pytest.mark.parametrize(
    ("task", "metric", "most_tokens", "is_chat"),
    [
        ("narrativeqa", "f1", 128, True),
        ("qasper", "f1", 128, True),
        ("multifieldqa_en", "f1", 64, True),
        ("hotpotqa", "f1", 32, True),
        ("2wikimqa", "f1", 32, True),
        ("musique", "f1", 32, True),
        ("gov_report", "rouge_l", 512, True),
        ("qmsum", "rouge_l", 512, True),
        ("multi_news", "rouge_l", 512, True),
        ("trec", "classification", 64, False),
        ("triviaqa", "f1_first_line", 32, False),
        ("samsum", "rouge_l_first_line", 128, False),
        ("passage_count", "count", 32, True),
        ("passage_retrieval_en", "retrieval", 32, True),
        ("lcc", "edit_similarity", 64, False),
        ("repobench-p", "edit_similarity", 64, False),
    ],
)
def test_what_each_task_asks_for(
    tmp_path: Path, task: str, metric: str, most_tokens: int, is_chat: bool
) -> None:
    path = write(tmp_path / "rows.jsonl", row_of(task, all_classes=["Ann", "Ben"]))
    (sample,) = read_samples(path)
    (question,) = sample.questions
    assert (question.metric, question.most_tokens, sample.is_chat) == (metric, most_tokens, is_chat)
    assert read_samples(path, template="always")[0].is_chat
    assert not read_samples(path, template="never")[0].is_chat


def test_a_folder_holds_a_file_a_task(tmp_path: Path) -> None:
    write(tmp_path / "trec.jsonl", row_of("trec", all_classes=["Ann"]))
    write(tmp_path / "qasper.jsonl", row_of("qasper"))
    write(tmp_path / "qasper_e.jsonl", row_of("qasper_e", context="another"))
    write(tmp_path / "lcc_e.jsonl", row_of("lcc_e"))
    write(tmp_path / "dureader.jsonl", row_of("dureader"))
    # In the order of LongBench's tables; rows of even lengths where there are no others.
    assert [sample.task for sample in read_samples(tmp_path)] == ["qasper", "trec", "lcc"]
    (sample,) = read_samples(tmp_path, ["qasper"])
    assert "Ann is 3." in sample.context
    with pytest.raises(OVKVCrushError, match=r"holds no musique\.jsonl"):
        read_samples(tmp_path, ["qasper", "musique"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(OVKVCrushError, match="holds none of LongBench's English files"):
        read_samples(tmp_path / "empty")


def test_tasks_are_chosen_of_a_file(tmp_path: Path) -> None:
    rows = [row_of("qasper"), row_of("dureader"), row_of("lcc_e")]
    path = write(tmp_path / "rows.jsonl", *rows)
    assert [sample.task for sample in read_samples(path, ["lcc"])] == ["lcc"]
    with pytest.raises(ConfigError, match=r"no English task 'qaspar'\nDid you mean 'qasper'"):
        read_samples(path, ["qaspar"])
    with pytest.raises(OVKVCrushError, match="holds no rows of musique, trec"):
        read_samples(path, ["trec", "lcc", "musique"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "a list, not a JSON object"),
        (row_of("dureader"), "'dureader' is not an English task"),
        (row_of("other"), "'other' is not a task of LongBench"),
        (row_of("qasper", context=None), "'dataset', 'context' and 'input' are not texts"),
        ({"_id": "a"}, "'dataset', 'context' and 'input' are not texts"),
        (row_of("qasper", answers="Ann"), "'answers' is not a list of texts"),
        (row_of("qasper", answers=[]), "'answers' is empty"),
        (row_of("trec", all_classes=None), "'all_classes' is empty"),
        (row_of("lcc"), "the id 'lcc' is that of an earlier row"),
    ],
)
def test_a_bad_row_is_one_error_with_its_line(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "rows.jsonl", row_of("lcc"), row)
    with pytest.raises(OVKVCrushError) as caught:
        read_samples(path)
    assert caught.value.message == f"{path}, line 2: {reason}"
    assert caught.value.hint


def test_a_file_of_other_things_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(OVKVCrushError, match="cannot read"):
        read_samples(path)
    path.write_text("\n")
    with pytest.raises(OVKVCrushError, match="holds no rows of LongBench"):
        read_samples(path)
    path.write_text('\n{"dataset": ')
    with pytest.raises(OVKVCrushError, match="line 2: not valid JSON"):
        read_samples(path)


def test_the_hub_is_asked_for_the_rows_by_their_name(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its address when it is imported."""
    folder = tmp_path / "hub" / "datasets" / HUB
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for task in ("qasper", "lcc", "dureader"):
            archive.writestr(f"data/{task}.jsonl", json.dumps(row_of(task)))
    with serve(tmp_path / "hub") as endpoint:
        assert _read_from_hub(endpoint, tmp_path / "cache") == "['qasper', 'lcc']"
    # What has been fetched is there without a network; the rest is one line.
    assert _read_from_hub(endpoint, tmp_path / "cache") == "['qasper', 'lcc']"
    told = _read_from_hub(endpoint, tmp_path / "other")
    assert told.startswith(f"the data set {HUB} cannot be fetched: ")
    assert len(told.splitlines()) == 2


def _read_from_hub(endpoint: str, home: Path) -> str:
    code = f"""
from pathlib import Path
from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.evaluation.suites.longbench.samples import read_samples
try:
    print([sample.task for sample in read_samples(Path({HUB!r}))])
except OVKVCrushError as error:
    print(error)
"""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_hub_needs_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="package huggingface_hub, which is missing"):
        read_samples(Path(HUB))
