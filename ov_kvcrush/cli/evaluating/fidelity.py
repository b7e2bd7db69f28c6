"""``--suite fidelity``: how far cut caches are from the full one, measured text by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ov_kvcrush.cli.evaluating.request import EvalRequest
from ov_kvcrush.cli.output.console import table_console
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.evaluation.fidelity.plot import save_fidelity_plot
from ov_kvcrush.evaluation.fidelity.report import (
    fidelity_difference_table,
    fidelity_summary,
    fidelity_tables,
    fidelity_task_tables,
)
from ov_kvcrush.evaluation.fidelity.results import Results
from ov_kvcrush.evaluation.fidelity.texts import in_turn, read_texts
from ov_kvcrush.evaluation.suites.longbench.prompts import LongBench
from ov_kvcrush.evaluation.suites.longbench.rows import SHIPPED_ROWS

if TYPE_CHECKING:
    from ov_kvcrush.evaluation.fidelity.results import PromptScores


@dataclass(frozen=True)
class FidelityOptions:
    """What only this metric asks for; what was left open is None.

    Attributes:
        settings: when caches are cut.
        num_tokens: of an answer, at most.
        chat_template: which rows of LongBench go through it.
    """

    settings: Sequence[str]
    num_tokens: int | None
    chat_template: str | None


def evaluate_fidelity(request: EvalRequest, options: FidelityOptions) -> None:
    """Measure and show it; errors and Ctrl+C come out when that has been done."""
    longbench = LongBench(options.chat_template or "auto")
    texts = in_turn(
        read_texts(request.data or SHIPPED_ROWS, longbench), request.tasks, request.split
    )
    outputs = request.outputs
    scores: list[PromptScores] = []
    num_prompts = 0

    def results() -> Results:
        return Results(tuple(options.settings), tuple(request.configurations), tuple(scores))

    def figures(with_prompts: bool) -> dict[str, Any]:
        body = request.facts() | {
            "suite": "fidelity",
            "settings": list(options.settings),
            "answer_tokens": options.num_tokens,
            "chat_template": options.chat_template,
            "complete": len(scores) == num_prompts,
        }
        return body | fidelity_summary(results(), outputs.compare, with_prompts)

    def print_tables() -> None:
        console = table_console()
        for table in fidelity_tables(results()):
            console.print(table)
        if outputs.by_task:
            for table in fidelity_task_tables(results()):
                console.print(table)
        if outputs.compare is not None:
            console.print(fidelity_difference_table(results(), outputs.compare))

    with (
        outputs.shown(
            figures,
            lambda: bool(scores),
            print_tables,
            lambda path: save_fidelity_plot(results(), path),
        ),
        StepProgress("Counting tokens …") as progress,
    ):
        from ov_kvcrush.evaluation.fidelity.run import ANSWER_TOKENS, CHUNK, FidelityRun

        run = FidelityRun(
            request.model_dir,
            request.configurations,
            options.settings,
            request.device,
            request.properties,
            num_tokens=options.num_tokens or ANSWER_TOKENS,
            chunk=request.chunk or CHUNK,
            decode_precision=request.decode_precision,
            **(
                {} if request.prefill_factor is None else {"prefill_factor": request.prefill_factor}
            ),
        )
        prompts = run.prompts(
            texts, progress, sizes=request.tokens, split=request.split, limit=request.limit
        )
        num_prompts = len(prompts)
        for score in run.run(prompts, progress):
            scores.append(score)
            outputs.keep(figures)
