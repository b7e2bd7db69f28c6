"""``--suite ppl``: perplexity of texts whose older tokens are cut to a budget all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ov_kvcrush.cli.evaluating.request import EvalRequest
from ov_kvcrush.cli.output.console import table_console
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.fidelity.texts import read_texts
from ov_kvcrush.evaluation.perplexity.passages import make_passages
from ov_kvcrush.evaluation.perplexity.report import (
    perplexity_difference_table,
    perplexity_summary,
    perplexity_table,
)
from ov_kvcrush.evaluation.perplexity.results import PerplexityResults
from ov_kvcrush.evaluation.rotation import one_of_each
from ov_kvcrush.evaluation.suites.longbench.prompts import LongBench

if TYPE_CHECKING:
    from ov_kvcrush.evaluation.perplexity.results import PassageResult


def evaluate_perplexity(request: EvalRequest, length: int) -> None:
    """Measure and show it; errors and Ctrl+C come out when that has been done."""
    if request.data is None:
        raise ConfigError("--suite ppl needs a text", "Give one with --data FILE.")
    texts = read_texts(request.data, LongBench())
    outputs = request.outputs
    found: list[PassageResult] = []
    num_passages = 0

    def results() -> PerplexityResults:
        return PerplexityResults(tuple(request.configurations), tuple(found))

    def figures(with_passages: bool) -> dict[str, Any]:
        body = request.facts() | {
            "suite": "ppl",
            "length": length,
            "complete": len(found) == num_passages,
        }
        return body | perplexity_summary(results(), outputs.compare, with_passages)

    def print_tables() -> None:
        console = table_console()
        console.print(perplexity_table(results()))
        if outputs.compare is not None:
            console.print(perplexity_difference_table(results(), outputs.compare))

    with (
        outputs.shown(figures, lambda: bool(found), print_tables),
        StepProgress("Counting tokens …") as progress,
    ):
        from ov_kvcrush.evaluation.perplexity.run import CHUNK, PerplexityRun
        from ov_kvcrush.export.texts.tokens import TextReader

        reader = TextReader(request.model_dir)
        passages = make_passages(texts, reader.tokens, reader.lead, length, request.split)
        passages = one_of_each(passages)[: request.limit]
        num_passages = len(passages)
        run = PerplexityRun(
            request.model_dir,
            request.configurations,
            request.device,
            request.properties,
            request.chunk or CHUNK,
            request.decode_precision,
        )
        for result in run.run(passages, progress):
            found.append(result)
            outputs.keep(figures)
