"""``ov-kvcrush eval``: what a part of the KV cache does to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ov_kvcrush.cli.evaluating.accuracy import evaluate_accuracy
from ov_kvcrush.cli.evaluating.fidelity import FidelityOptions, evaluate_fidelity
from ov_kvcrush.cli.evaluating.flags import FIDELITY, NEEDLE, refuse_foreign_flags
from ov_kvcrush.cli.evaluating.outputs import Outputs
from ov_kvcrush.cli.evaluating.request import EvalRequest
from ov_kvcrush.cli.evaluating.suites import SuiteOptions, evaluate_suite
from ov_kvcrush.cli.options.model import (
    DecodePrecision,
    Device,
    ModelDir,
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
    POLICIES,
)
from ov_kvcrush.evaluation.suites.catalog import LENGTH, NUM_SAMPLES, SUITES, SampleRequest
from ov_kvcrush.evaluation.suites.longbench.prompts import TEMPLATES

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

ALL_SUITES = (NEEDLE, FIDELITY, *SUITES)

_CACHE, _DATA, _MADE, _OUTPUT = "KV cache", "Questions", "Generated questions", "Output"
# Times a budget that nobody's document is long enough for.
_MOST = 1_000_000


def _option(help_text: str, panel: str, *names: str, **settings: Any) -> Any:
    settings = {"show_default": False, "rich_help_panel": panel, **settings}
    return typer.Option(*names, help=help_text, **settings)


@app.command("eval")
def evaluate(
    model_dir: ModelDir,
    device: Device = "CPU",
    *,
    suite: Annotated[
        str,
        _option(
            "What is asked; see below.",
            _DATA,
            metavar="|".join(ALL_SUITES),
            show_default=True,
        ),
    ] = NEEDLE,
    data: Annotated[
        Path | None,
        _option(
            "For needle: conversations, one JSON object a line. For fidelity: any text. For "
            "longbench: its JSONL, a folder of them, or THUDM/LongBench for the hub. The last two "
            "have 55 rows of LongBench of their own.",
            _DATA,
            metavar="FILE",
        ),
    ] = None,
    task: Annotated[
        list[str] | None, _option("Only this task; repeatable.", _DATA, metavar="NAME")
    ] = None,
    tokens: Annotated[
        tuple[int, int] | None,
        _option(
            "Only documents from LOW to HIGH tokens, as the data counts them (or the model).",
            _DATA,
            metavar="LOW HIGH",
        ),
    ] = None,
    split: Annotated[
        str,
        _option(
            "The half of the documents to tune with, or the half to report.",
            _DATA,
            metavar="|".join(SPLITS),
            show_default=True,
        ),
    ] = "all",
    limit: Annotated[
        int | None, _option("N of them, always the same ones.", _DATA, metavar="N", min=1)
    ] = None,
    length: Annotated[
        list[int] | None,
        _option(
            f"Tokens of a conversation; repeatable (default {LENGTH}). Longer prompts of LongBench "
            "lose their middle.",
            _MADE,
            metavar="TOKENS",
            min=1,
            max=2**31 - 1,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        _option(
            f"Conversations of each task and length (default {NUM_SAMPLES}).",
            _MADE,
            metavar="N",
            min=1,
            max=_MOST,
        ),
    ] = None,
    seed: Annotated[
        int | None, _option("Of all random choices (default 0).", _MADE, metavar="N")
    ] = None,
    policy: Annotated[
        list[str] | None,
        _option(
            f"{', '.join(POLICIES)}; repeatable (default {', '.join(FIDELITY_POLICIES)}; for "
            f"needle {', '.join(DEFAULT_POLICIES)}). "
            f"{FULL} is evaluated in any case. Other settings of one: NAME:FIELD=VALUE,...",
            _CACHE,
            metavar="POLICY",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        _option(
            "Part of each document's tokens that stays, such as 1/4 or 0.25; repeatable "
            "(default 1/4).",
            _CACHE,
            metavar="PART",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        _option(
            "Storage of keys and values, such as u8/u4, or exported for the model's own plan; "
            "repeatable, the first with the full cache is the reference (default exported).",
            _CACHE,
            metavar="KEY/VALUE",
        ),
    ] = None,
    prefill_factor: Annotated[
        float | None,
        _option(
            "Prefill budget as a multiple of the budget, 1 or more; 0 cuts nothing while a "
            "prompt is read (default as in chat).",
            _CACHE,
            metavar="FACTOR",
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        _option(
            "Tokens of a prompt that are read at once (default 1024, for needle 2048).",
            _CACHE,
            metavar="TOKENS",
            min=1,
            max=2**31 - 1,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        _option(
            "When caches are cut: the question is known, or comes later, or all the time while "
            "reading; repeatable (default all three; not for needle).",
            _CACHE,
            metavar="|".join(SETTINGS),
        ),
    ] = None,
    answer_tokens: Annotated[
        int | None,
        _option(
            "For fidelity: tokens of the full cache's answer, at most (default 32).",
            _DATA,
            metavar="N",
            min=1,
            max=4096,
        ),
    ] = None,
    chat_template: Annotated[
        str | None,
        _option(
            "Rows of LongBench that go through the model's chat template (default auto: those that "
            "LongBench puts through it).",
            _DATA,
            metavar="|".join(TEMPLATES),
        ),
    ] = None,
    compare: Annotated[
        str | None,
        _option(
            "Policy to which every other one's difference is given, with 95 % intervals.",
            _OUTPUT,
            metavar="NAME",
        ),
    ] = None,
    by_task: Annotated[bool, _option("A second table, by task.", _OUTPUT, "--by-task")] = False,
    as_json: Annotated[bool, _option("The figures as one JSON object.", _OUTPUT, "--json")] = False,
    output: Annotated[
        Path | None,
        _option(
            "The same and every answer, written anew whenever something is finished.",
            _OUTPUT,
            metavar="FILE.json",
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        _option(
            "For longbench, ruler, turns: a line for each sample; the same command goes on from it "
            "after a kill.",
            _OUTPUT,
            metavar="FILE.jsonl",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        _option("For the same: scores by task as CSV.", _OUTPUT, "--csv", metavar="FILE.csv"),
    ] = None,
    report: Annotated[
        Path | None,
        _option(
            "For the same: one page with pictures and every answer; needs the eval extra.",
            _OUTPUT,
            metavar="FILE.html",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        _option(
            "Picture of the metric over KV cache size; needs the eval extra.",
            _OUTPUT,
            metavar="FILE.png",
        ),
    ] = None,
    properties: Properties = None,
    decode_precision: DecodePrecision = None,
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
    if prefill_factor is not None and prefill_factor != 0 and not 1 <= prefill_factor <= _MOST:
        raise ConfigError(
            f"--prefill-factor {prefill_factor} is neither 0 nor from 1 to {_MOST:,}",
            "Give 1 or more, or 0 to cut nothing while a prompt is read.",
        )
    for name, value, known in (("suite", suite, ALL_SUITES), ("split", split, SPLITS)):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", did_you_mean(value, known))
    given = {
        "--data": data,
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
    )
    if suite == NEEDLE:
        evaluate_accuracy(request)
    elif suite == FIDELITY:
        evaluate_fidelity(request, FidelityOptions(settings, answer_tokens, chat_template))
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
