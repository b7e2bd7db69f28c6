"""LongBench's rows as samples: its prompts in two parts, its answers, lengths and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ov_kvcrush.errors import ConfigError, OVKVCrushError, did_you_mean
from ov_kvcrush.evaluation.suites.longbench.prompts import LongBench, task_of
from ov_kvcrush.evaluation.suites.longbench.rows import Row, read_rows
from ov_kvcrush.evaluation.suites.longbench.tasks import METRIC_BY_TASK
from ov_kvcrush.evaluation.suites.sample import Question, Sample


def read_samples(
    data: Path | None = None, tasks: Sequence[str] = (), template: str = "auto"
) -> list[Sample]:
    """LongBench's English samples in ``data``, in their order there.

    Args:
        data: as :func:`read_rows` has it.
        tasks: names; all there are where there are none.
        template: as :class:`LongBench` has it.

    Raises:
        ConfigError: an unknown task, or ``template`` is.
        OVKVCrushError: as :func:`read_rows`; or a row lacks fields, has the id of another one, or
            is of a task that is not English.
    """
    for task in tasks:
        if task not in METRIC_BY_TASK:
            raise ConfigError(
                f"LongBench has no English task {task!r}", did_you_mean(task, METRIC_BY_TASK)
            )
    longbench = LongBench(template)
    samples: dict[str, Sample] = {}
    missing = set(tasks)
    for row in read_rows(data, tasks):
        task = task_of(str(row.fields.get("dataset")))
        if tasks and task not in tasks:
            continue
        sample = make_sample(row, longbench)
        if sample.id in samples:
            raise OVKVCrushError(
                f"{row.place}: the id {sample.id!r} is that of an earlier row", "Leave one out."
            )
        samples[sample.id] = sample
        missing.discard(task)
    if missing or not samples:
        raise OVKVCrushError(
            f"{data} holds no rows of {', '.join(sorted(missing)) or 'LongBench'}",
            "Leave the task out, or give other data." if missing else "",
        )
    return list(samples.values())


def make_sample(row: Row, longbench: LongBench) -> Sample:
    """The sample of ``row``.

    Raises:
        OVKVCrushError: it lacks fields, or is of a task that is not English.
    """
    try:
        prompt = longbench.prompt(row.fields)
        metric = METRIC_BY_TASK.get(prompt.task)
        if metric is None:
            raise ValueError(f"{prompt.task!r} is not an English task")
        if not prompt.answers:
            raise ValueError("'answers' is empty")
        if metric == "classification" and not prompt.classes:
            raise ValueError("'all_classes' is empty")
    except ValueError as error:
        raise OVKVCrushError(
            f"{row.place}: {error}", f"The English tasks are {', '.join(METRIC_BY_TASK)}."
        ) from error
    name = row.fields.get("_id")
    question = Question(
        text=prompt.question,
        answers=prompt.answers,
        metric=metric,
        most_tokens=prompt.most_tokens,
        classes=prompt.classes,
    )
    return Sample(
        id=name if isinstance(name, str) and name else row.place,
        task=prompt.task,
        context=prompt.context,
        questions=(question,),
        is_chat=prompt.is_chat,
    )
