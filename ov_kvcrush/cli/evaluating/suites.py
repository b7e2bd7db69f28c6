"""``--suite longbench|ruler|turns``: samples asked of every cache, and what is shown of them."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ov_kvcrush.cli.evaluating.outputs import check_writable
from ov_kvcrush.cli.evaluating.request import EvalRequest
from ov_kvcrush.cli.output.console import table_console
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.evaluation.reporting.page.writing import RunFacts, require_report, write_report
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.evaluation.reporting.summary import summary, write_csv
from ov_kvcrush.evaluation.reporting.tables import difference_table, score_tables, task_tables
from ov_kvcrush.evaluation.suites.catalog import SampleRequest
from ov_kvcrush.evaluation.suites.metrics import METRICS, require_metrics
from ov_kvcrush.machine import num_processors, processor_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ov_kvcrush.evaluation.asking.results import SampleResult
    from ov_kvcrush.evaluation.suites.sample import Question, Sample

_PACKAGES = ("ov-kvcrush", "openvino", "openvino-genai")


@dataclass(frozen=True)
class SuiteOptions:
    """What only suites of samples ask for; what was left open is None.

    Attributes:
        samples: which are asked.
        settings: when caches are cut.
        journal: file that a killed run goes on from.
        table: CSV file.
        report: HTML file.
    """

    samples: SampleRequest
    settings: Sequence[str]
    journal: Path | None
    table: Path | None
    report: Path | None

    def check(self) -> None:
        """Refuse before anything runs what could not be written in the end.

        Raises:
            ConfigError: a file cannot be written, or no picture can be drawn.
        """
        for path in (self.journal, self.table, self.report):
            if path is not None:
                check_writable(path, self.samples.data)
        if self.report is not None:
            require_report(self.report)


def evaluate_suite(request: EvalRequest, options: SuiteOptions) -> None:
    """Ask, score and show it; errors and Ctrl+C come out when that has been done."""
    options.check()
    outputs, configurations = request.outputs, request.configurations
    samples: list[Sample] = []
    results: list[SampleResult] = []

    def shown() -> SuiteResults:
        return SuiteResults.of(configurations, samples, results)

    def figures(with_samples: bool) -> dict[str, Any]:
        body = request.facts() | {
            "suite": options.samples.suite,
            "lengths": list(options.samples.lengths) or None,
            "seed": options.samples.seed,
            "settings": list(options.settings),
            "complete": bool(samples) and len(results) == len(samples),
        }
        return body | summary(shown(), outputs.compare, with_samples)

    def show() -> None:
        console = table_console()
        for table in score_tables(shown()):
            console.print(table)
        if outputs.by_task:
            for table in task_tables(shown()):
                console.print(table)
        if outputs.compare is not None:
            console.print(difference_table(shown(), outputs.compare))

    def write() -> None:
        if not results:
            return
        if options.table is not None:
            write_csv(options.table, shown())
        if options.report is not None:
            write_report(options.report, shown(), _facts(request, options), outputs.compare)

    with ExitStack() as stack:
        stack.callback(write)
        stack.enter_context(outputs.shown(figures, lambda: bool(results), show))
        progress = stack.enter_context(StepProgress("Making samples …"))

        from ov_kvcrush.evaluation.asking.journal import open_journal
        from ov_kvcrush.evaluation.asking.run import CHUNK, AskingRun
        from ov_kvcrush.evaluation.fidelity.budgets import PREFILL_FACTOR
        from ov_kvcrush.export.texts.tokens import TextReader

        reader = TextReader(request.model_dir)
        samples += options.samples.samples(lambda text: len(reader.tokens(text)), progress.note)
        questions = [question for sample in samples for question in sample.questions]
        require_metrics({question.metric for question in questions if question.is_scored})
        factor = request.prefill_factor
        run = AskingRun(
            request.model_dir,
            configurations,
            _score,
            options.settings,
            request.device,
            request.properties,
            prefill_factor=PREFILL_FACTOR if factor is None else factor,
            chunk=request.chunk or CHUNK,
            decode_precision=request.decode_precision,
        )
        journal = None
        if options.journal is not None:
            asked = run.request(samples, {"suite": options.samples.suite})
            journal = stack.enter_context(open_journal(options.journal, asked))
        for result in run.run(samples, progress, journal):
            results.append(result)
            outputs.keep(figures)


def _score(text: str, question: Question) -> float:
    return METRICS[question.metric](text, question) if question.is_scored else 0.0


def _facts(request: EvalRequest, options: SuiteOptions) -> RunFacts:
    memory = psutil.virtual_memory().total
    return RunFacts(
        title=f"{request.model_dir.resolve().name}: {options.samples.suite}",
        command=shlex.join(["ov-kvcrush", *sys.argv[1:]]),
        model=str(request.model_dir),
        machine=f"{processor_name()}, {num_processors()} processors, {memory / 1e9:.0f} GB",
        versions={name: version(name) for name in _PACKAGES},
        date=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
