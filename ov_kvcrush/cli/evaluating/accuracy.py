"""``--suite needle``: right answers, counted configuration by configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ov_kvcrush.cli.evaluating.request import EvalRequest
from ov_kvcrush.cli.output.console import table_console
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.dataset import choose_examples, read_examples
from ov_kvcrush.evaluation.plot import save_plot
from ov_kvcrush.evaluation.report import accuracy_table, difference_table, summary, task_table

if TYPE_CHECKING:
    from ov_kvcrush.evaluation.results import Outcome


def evaluate_accuracy(request: EvalRequest) -> None:
    """Count right answers and show them; errors and Ctrl+C come out when that has been done."""
    if request.data is None:
        raise ConfigError("--suite needle needs conversations", "Give them with --data FILE.")
    examples = choose_examples(
        read_examples(request.data),
        tasks=request.tasks,
        sizes=request.tokens,
        split=request.split,
        limit=request.limit,
    )
    outputs, configurations = request.outputs, request.configurations
    outcomes: list[Outcome] = []

    def figures(with_examples: bool) -> dict[str, Any]:
        body = request.facts() | {"complete": len(outcomes) == len(configurations)}
        return body | summary(outcomes, outputs.compare, with_examples)

    def print_tables() -> None:
        console = table_console()
        console.print(accuracy_table(outcomes))
        if outputs.by_task:
            console.print(task_table(outcomes))
        if outputs.compare is not None:
            console.print(difference_table(outcomes, outputs.compare))

    with (
        outputs.shown(
            figures, lambda: bool(outcomes), print_tables, lambda path: save_plot(outcomes, path)
        ),
        StepProgress("Counting tokens …") as progress,
    ):
        from ov_kvcrush.evaluation.run import Evaluation

        evaluation = Evaluation(
            request.model_dir,
            request.device,
            request.properties,
            request.prefill_factor,
            request.chunk,
            request.decode_precision,
            request.prompt_lookup,
        )
        for outcome in evaluation.compare(configurations, examples, progress):
            outcomes.append(outcome)
            outputs.keep(figures)
