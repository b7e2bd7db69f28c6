"""``ov-kvcrush eval``: what a part of the KV cache does to answers."""

from __future__ import annotations

from typing import Annotated

import typer

from ov_kvcrush.cli.evaluating.accuracy import evaluate_accuracy
from ov_kvcrush.cli.evaluating.fidelity import FidelityOptions, evaluate_fidelity
from ov_kvcrush.cli.evaluating.flags import FIDELITY, NEEDLE, PPL, refuse_foreign_flags
from ov_kvcrush.cli.evaluating.outputs import Outputs
from ov_kvcrush.cli.evaluating.perplexity import evaluate_perplexity
from ov_kvcrush.cli.evaluating.request import EvalRequest
from ov_kvcrush.cli.evaluating.suites import SuiteOptions, evaluate_suite
from ov_kvcrush.cli.options.evaluation import (
    ALL_SUITES,
    MOST,
    AnswerTokens,
    AsJson,
    ByTask,
    ChatTemplate,
    Chunk,
    Compare,
    Data,
    Journal,
    Keeps,
    Lengths,
    Limit,
    NumSamples,
    Output,
    Plot,
    Policies,
    Precisions,
    PrefillFactor,
    Report,
    Seed,
    Settings,
    Split,
    Suite,
    Table,
    Tasks,
    Tokens,
)
from ov_kvcrush.cli.options.model import (
    DecodePrecision,
    Device,
    ModelDir,
    PromptLookup,
    Properties,
    parse_properties,
)
from ov_kvcrush.cli.output.errors import Verbose
from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.evaluation.configurations import make_configurations, parse_keep, parse_precision
from ov_kvcrush.evaluation.dataset import SPLITS
from ov_kvcrush.evaluation.fidelity.results import SETTINGS
from ov_kvcrush.evaluation.policies import (
    DEFAULT_POLICIES,
    FIDELITY_POLICIES,
    FULL,
)
from ov_kvcrush.evaluation.suites.catalog import LENGTH, NUM_SAMPLES, SampleRequest
from ov_kvcrush.precisions import AUTO

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command("eval")
def evaluate(
    model_dir: ModelDir,
    device: Device = "CPU",
    *,
    suite: Suite = NEEDLE,
    data: Data = None,
    task: Tasks = None,
    tokens: Tokens = None,
    split: Split = "all",
    limit: Limit = None,
    length: Lengths = None,
    samples: NumSamples = None,
    seed: Seed = None,
    policy: Policies = None,
    keep: Keeps = None,
    precision: Precisions = None,
    prefill_factor: PrefillFactor = None,
    chunk: Chunk = None,
    setting: Settings = None,
    answer_tokens: AnswerTokens = None,
    chat_template: ChatTemplate = None,
    compare: Compare = None,
    by_task: ByTask = False,
    as_json: AsJson = False,
    output: Output = None,
    journal: Journal = None,
    table: Table = None,
    report: Report = None,
    plot: Plot = None,
    properties: Properties = None,
    decode_precision: DecodePrecision = AUTO,
    prompt_lookup: PromptLookup = 0,
    max_cache_size: Annotated[int | None, typer.Option(hidden=True)] = None,
    verbose: Verbose = False,
) -> None:
    """Compare policies, budgets and precisions of the KV cache with the full one.

    **needle** counts exactly right answers about long documents. A document is read with its
    first question, and the cache is cut once. Later questions are answered from what is left, each
    after the right answers to those before it. The full cache comes first and is the reference.

    A line of the data is `{"id": TEXT, "task": TEXT, "tokens": NUMBER, "turns":
    [[QUESTION, ANSWER], ...]}`, the document in the first question; a first answer "Noted." is not
    scored.

    **fidelity** needs no right answers: a text file, or lines that are `{"text": TEXT}`,
    `{"messages": [...]}` or rows of LongBench. The full cache answers, and each cut one is told the
    same tokens: what it would have said (agreement, KL).

    **longbench** asks what LongBench asks, with its prompts, answer lengths and metrics. **ruler**
    makes RULER's tasks in any length, **turns** conversations of five questions over one text.
    All three read a text once and cut copies of its cache in every way.

    **ppl** tells plain texts on, in passages of `--length` tokens, and cuts each cache to its part
    of them behind every `--chunk` tokens.

    After Ctrl+C what was finished is shown. Exit codes: 0 done, 1 unexpected failure, 2 a mistake
    in the input, 130 Ctrl+C.

    Examples:

    - `ov-kvcrush eval qwen3 --data questions.jsonl --limit 20`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --keep 1/2 --keep 1/4 --keep 1/8 --plot a.png`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --precision u8/u8 --precision u4/u4
    --policy full`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --policy default
    --policy default:representative_share=0.75,window_size=32`

    - `ov-kvcrush eval qwen3 --suite fidelity --data my-texts.jsonl --limit 20 --compare default`

    - `ov-kvcrush eval qwen3 --suite ruler --length 4096 --keep 1/4 --keep 1/8 --journal a.jsonl
    --report a.html`

    - `ov-kvcrush eval qwen3 --data questions.jsonl --policy genai-kvcrush --policy default
    --compare genai-kvcrush --json`
    """
    if max_cache_size is not None:
        raise ConfigError(
            "--max-cache-size is not for documents of different sizes",
            "Give the part of their tokens that stays: --keep 1/4",
        )
    if prefill_factor is not None and prefill_factor != 0 and not 1 <= prefill_factor <= MOST:
        raise ConfigError(
            f"--prefill-factor {prefill_factor} is neither 0 nor from 1 to {MOST:,}",
            "Give 1 or more, or 0 to cut nothing while a prompt is read.",
        )
    for name, value, known in (("suite", suite, ALL_SUITES), ("split", split, SPLITS)):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", did_you_mean(value, known))
    given = {
        "--data": data,
        "--task": task,
        "--by-task": by_task or None,
        "--prefill-factor": prefill_factor,
        "--tokens": tokens,
        "--limit": limit,
        "--split": None if split == "all" else split,
        "--length": length,
        "--samples": samples,
        "--seed": seed,
        "--setting": setting,
        "--answer-tokens": answer_tokens,
        "--chat-template": chat_template,
        "--journal": journal,
        "--csv": table,
        "--report": report,
        "--plot": plot,
        "--prompt-lookup": prompt_lookup or None,
    }
    refuse_foreign_flags(suite, [flag for flag, value in given.items() if value is not None])
    policies = policy or list(DEFAULT_POLICIES if suite == NEEDLE else FIDELITY_POLICIES)
    if compare is not None and compare not in [FULL, *policies]:
        raise ConfigError(
            f"--compare {compare!r} is not one of the policies", did_you_mean(compare, policies)
        )
    for name in setting or ():
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name!r}", did_you_mean(name, SETTINGS))
    settings = [name for name in SETTINGS if name in (setting or SETTINGS)]
    outputs = Outputs(compare, by_task, as_json, output, plot)
    outputs.check(data)
    request = EvalRequest(
        model_dir=model_dir,
        device=device,
        data=data,
        configurations=make_configurations(
            policies,
            [parse_keep(text) for text in keep or ["1/4"]],
            [parse_precision(text) for text in precision or []],
            # What every cache is told is what our own engine's full cache says.
            reference=None if suite == NEEDLE else "paged",
        ),
        outputs=outputs,
        tasks=task or (),
        tokens=tokens,
        split=split,
        limit=limit,
        prefill_factor=prefill_factor,
        chunk=chunk,
        properties=parse_properties(properties or []),
        decode_precision=decode_precision,
        prompt_lookup=prompt_lookup,
    )
    if suite == NEEDLE:
        evaluate_accuracy(request)
    elif suite == FIDELITY:
        evaluate_fidelity(request, FidelityOptions(settings, answer_tokens, chat_template))
    elif suite == PPL:
        evaluate_perplexity(request, _one_length(length))
    else:
        wanted = SampleRequest(
            suite,
            data,
            task or (),
            length or (),
            samples or NUM_SAMPLES,
            seed or 0,
            split,
            limit,
            chat_template or "auto",
        )
        evaluate_suite(request, SuiteOptions(wanted, settings, journal, table, report))


def _one_length(lengths: list[int] | None) -> int:
    """The only one of ``lengths``, or the default.

    Raises:
        ConfigError: there are several.
    """
    if lengths and len(lengths) > 1:
        raise ConfigError("--length is given several times", "Passages have one length.")
    return lengths[0] if lengths else LENGTH
