"""What ``ov-kvcrush eval`` takes: its flags, and what they say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ov_kvcrush.cli.evaluating.flags import FIDELITY, NEEDLE, PPL
from ov_kvcrush.evaluation.dataset import SPLITS
from ov_kvcrush.evaluation.fidelity.results import SETTINGS
from ov_kvcrush.evaluation.policies import DEFAULT_POLICIES, FIDELITY_POLICIES, FULL, POLICIES
from ov_kvcrush.evaluation.suites.catalog import LENGTH, NUM_SAMPLES, SUITES
from ov_kvcrush.evaluation.suites.longbench.prompts import TEMPLATES

ALL_SUITES = (NEEDLE, FIDELITY, *SUITES, PPL)

_CACHE, _DATA, _MADE, _OUTPUT = "KV cache", "Questions", "Generated questions", "Output"
# Times a budget that nobody's document is long enough for.
MOST = 1_000_000


def _option(help_text: str, panel: str, *names: str, **settings: Any) -> Any:
    settings = {"show_default": False, "rich_help_panel": panel, **settings}
    return typer.Option(*names, help=help_text, **settings)


Suite = Annotated[
    str,
    _option(
        "What is asked; see below.",
        _DATA,
        metavar="|".join(ALL_SUITES),
        show_default=True,
    ),
]

Data = Annotated[
    Path | None,
    _option(
        "For needle: conversations, one JSON object a line. For fidelity: any text. For "
        "longbench: its JSONL, a folder of them, or THUDM/LongBench for the hub. The last two "
        "have 55 rows of LongBench of their own.",
        _DATA,
        metavar="FILE",
    ),
]

Tasks = Annotated[list[str] | None, _option("Only this task; repeatable.", _DATA, metavar="NAME")]

Tokens = Annotated[
    tuple[int, int] | None,
    _option(
        "Only documents from LOW to HIGH tokens, as the data counts them (or the model).",
        _DATA,
        metavar="LOW HIGH",
    ),
]

Split = Annotated[
    str,
    _option(
        "The half of the documents to tune with, or the half to report.",
        _DATA,
        metavar="|".join(SPLITS),
        show_default=True,
    ),
]

Limit = Annotated[
    int | None, _option("N of them, always the same ones.", _DATA, metavar="N", min=1)
]

Lengths = Annotated[
    list[int] | None,
    _option(
        f"Tokens of a conversation; repeatable (default {LENGTH}). Longer prompts of LongBench "
        "lose their middle.",
        _MADE,
        metavar="TOKENS",
        min=1,
        max=2**31 - 1,
    ),
]

NumSamples = Annotated[
    int | None,
    _option(
        f"Conversations of each task and length (default {NUM_SAMPLES}).",
        _MADE,
        metavar="N",
        min=1,
        max=MOST,
    ),
]

Seed = Annotated[int | None, _option("Of all random choices (default 0).", _MADE, metavar="N")]

Policies = Annotated[
    list[str] | None,
    _option(
        f"{', '.join(POLICIES)}; repeatable (default {', '.join(FIDELITY_POLICIES)}; for "
        f"needle {', '.join(DEFAULT_POLICIES)}). "
        f"{FULL} is evaluated in any case. Other settings of one: NAME:FIELD=VALUE,...",
        _CACHE,
        metavar="POLICY",
    ),
]

Keeps = Annotated[
    list[str] | None,
    _option(
        "Part of each document's tokens that stays, such as 1/4 or 0.25; repeatable (default 1/4).",
        _CACHE,
        metavar="PART",
    ),
]

Precisions = Annotated[
    list[str] | None,
    _option(
        "Storage of keys and values, such as u8/u4, or exported for the model's own plan; "
        "repeatable, the first with the full cache is the reference (default exported).",
        _CACHE,
        metavar="KEY/VALUE",
    ),
]

PrefillFactor = Annotated[
    float | None,
    _option(
        "Prefill budget as a multiple of the budget, 1 or more; 0 cuts nothing while a "
        "prompt is read (default as in chat).",
        _CACHE,
        metavar="FACTOR",
    ),
]

Chunk = Annotated[
    int | None,
    _option(
        "Tokens of a prompt that are read at once (default 1024, for needle 2048, for ppl 128: "
        "caches are cut behind each).",
        _CACHE,
        metavar="TOKENS",
        min=1,
        max=2**31 - 1,
    ),
]

Settings = Annotated[
    list[str] | None,
    _option(
        "When caches are cut: the question is known, or comes later, or all the time while "
        "reading; repeatable (default all three; not for needle).",
        _CACHE,
        metavar="|".join(SETTINGS),
    ),
]

AnswerTokens = Annotated[
    int | None,
    _option(
        "For fidelity: tokens of the full cache's answer, at most (default 32).",
        _DATA,
        metavar="N",
        min=1,
        max=4096,
    ),
]

ChatTemplate = Annotated[
    str | None,
    _option(
        "Rows of LongBench that go through the model's chat template (default auto: those that "
        "LongBench puts through it).",
        _DATA,
        metavar="|".join(TEMPLATES),
    ),
]

Compare = Annotated[
    str | None,
    _option(
        "Policy to which every other one's difference is given, with 95 % intervals.",
        _OUTPUT,
        metavar="NAME",
    ),
]

Output = Annotated[
    Path | None,
    _option(
        "The same and every answer, written anew whenever something is finished.",
        _OUTPUT,
        metavar="FILE.json",
    ),
]

Journal = Annotated[
    Path | None,
    _option(
        "For longbench, ruler, turns: a line for each sample; the same command goes on from it "
        "after a kill.",
        _OUTPUT,
        metavar="FILE.jsonl",
    ),
]

Table = Annotated[
    Path | None,
    _option("For the same: scores by task as CSV.", _OUTPUT, "--csv", metavar="FILE.csv"),
]

Report = Annotated[
    Path | None,
    _option(
        "For the same: one page with pictures and every answer; needs the eval extra.",
        _OUTPUT,
        metavar="FILE.html",
    ),
]

Plot = Annotated[
    Path | None,
    _option(
        "Picture of the metric over KV cache size; needs the eval extra.",
        _OUTPUT,
        metavar="FILE.png",
    ),
]

ByTask = Annotated[bool, _option("A second table, by task.", _OUTPUT, "--by-task")]

AsJson = Annotated[bool, _option("The figures as one JSON object.", _OUTPUT, "--json")]
