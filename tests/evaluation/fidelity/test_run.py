"""The whole measurement on the small model: what is nothing, what grows, what may not matter."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.evaluation.configurations import Configuration, make_configurations
from ov_kvcrush.evaluation.fidelity.prompts import Prompt
from ov_kvcrush.evaluation.fidelity.results import SETTINGS, PromptScores, Score
from ov_kvcrush.evaluation.fidelity.run import FidelityRun
from ov_kvcrush.evaluation.fidelity.texts import Text
from ov_kvcrush.pipeline.results import EncodedResults
from ov_kvcrush.progress import Silent
from tests.support.engines import F32
from tests.support.texts import document

QUESTION = "What is room 7?"
CHAT = Text(
    "chat",
    "rooms",
    ({"role": "user", "content": f"{document()} {document(1)} {document(2)} {QUESTION}"},),
    question=QUESTION,
    gold="417",
)
PASSAGE = Text("passage", "story", f"{document(3)} {document(4)}", is_passage=True)
SIGNED = "keydiff:representatives=rank,representative_share=0.5,signature_heads=query"
"""It would see query heads apart if anything told of them, such as what H2O adds up."""

FULL = Configuration("full", "paged")


def measured(
    folder: Path, configurations: list[Configuration], *texts: Text, **settings: Any
) -> tuple[list[Prompt], list[PromptScores]]:
    # The budgets are of prompts of some hundred tokens.
    run = FidelityRun(
        folder, configurations, **{"num_tokens": 8, "chunk": 128, "properties": F32, **settings}
    )
    prompts = run.prompts(texts or [CHAT, PASSAGE], Silent())
    return prompts, list(run.run(prompts, Silent()))


def scores_of(
    prompts: list[PromptScores], configuration: Configuration, setting: str
) -> list[Score]:
    return [prompt.scores[setting, configuration] for prompt in prompts]


@pytest.fixture(scope="module")
def compared(needle_int8_dir: Path) -> list[PromptScores]:
    keeps = [Fraction(1), Fraction(1, 2), Fraction(1, 4)]
    configurations = make_configurations(["snapkv-k7", "default", SIGNED], keeps, [])
    return measured(needle_int8_dir, configurations)[1]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("policy", ["full", "snapkv-k7", "default"])
def test_where_all_is_kept_nothing_diverges(
    compared: list[PromptScores], policy: str, setting: str
) -> None:
    keep = None if policy == "full" else Fraction(1)
    for score in scores_of(compared, Configuration(policy, "paged", keep), setting):
        assert score.kl
        assert max(score.kl) < 1e-9
        assert all(score.alike)
        assert score.gold == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_policy_keeps_the_same_total_and_less_of_it_diverges_more(
    compared: list[PromptScores], setting: str
) -> None:
    for policy in ("snapkv-k7", "default"):
        kl = []
        for keep in (Fraction(1, 2), Fraction(1, 4)):
            found = scores_of(compared, Configuration(policy, "paged", keep), setting)
            for prompt, score in zip(compared, found, strict=True):
                assert score.budget == int(keep * prompt.prompt_tokens)
                assert score.budget - 1 <= score.kept <= score.budget
            kl.append(sum(score.mean_kl or 0 for score in found))
        assert 0 < kl[0] < kl[1]


def test_the_first_token_counts_only_where_it_depends_on_a_cut(
    compared: list[PromptScores],
) -> None:
    configuration = Configuration("default", "paged", Fraction(1, 4))
    known, unknown, reading = (scores_of(compared, configuration, s)[1] for s in SETTINGS)
    assert (len(known.kl), len(unknown.kl), len(reading.kl)) == (7, 8, 8)


def test_results_do_not_depend_on_what_else_is_compared(
    compared: list[PromptScores], needle_int8_dir: Path
) -> None:
    policies = [SIGNED, "default", "h2o", "snapkv-k7"]
    configurations = make_configurations(policies, [Fraction(1, 4)], [])
    _, again = measured(needle_int8_dir, configurations)
    for policy in ("default", "snapkv-k7", SIGNED):
        configuration = Configuration(policy, "paged", Fraction(1, 4))
        for setting in SETTINGS:
            wanted = scores_of(compared, configuration, setting)
            assert scores_of(again, configuration, setting) == wanted


def test_what_a_cut_cache_writes_by_itself_is_what_the_pipeline_writes(
    needle_int8_dir: Path,
) -> None:
    configurations = make_configurations(["default", "genai-kvcrush"], [Fraction(1, 2)], [])
    (prompt,), (found,) = measured(
        needle_int8_dir, [FULL, *configurations[1:]], CHAT, settings=["known"]
    )
    assert {setting for setting, _ in found.scores} == {"known"}
    full, default, genai = (found.scores["known", c] for c in [FULL, *configurations[1:]])
    assert (full.free_tokens, full.free_alike) == (1.0, True)
    # All get whole pages, as openvino_genai has to have.
    assert default.budget == genai.budget == len(prompt.tokens) // 2 // 32 * 32
    assert genai.kl == ()
    assert genai.free_tokens is not None
    assert 0 < genai.free_tokens <= 1
    answers = []
    for config in (
        KVCacheConfig(),
        KVCacheConfig(max_cache_size=default.budget, prefill_budget=0),
    ):
        pipe = LLMPipeline(
            needle_int8_dir, kv_cache_config=config, config=F32, max_num_batched_tokens=128
        )
        ids = ov.Tensor(np.array([prompt.tokens], np.int64))
        results = pipe.generate(ids, max_new_tokens=8, do_sample=False)
        assert isinstance(results, EncodedResults)
        answers.append(results.tokens[0])
    full_answer, cut_answer = answers
    same = 0
    while same < len(full_answer) and full_answer[same : same + 1] == cut_answer[same : same + 1]:
        same += 1
    assert default.free_tokens == same / len(full_answer)
    assert default.free_alike == (full_answer == cut_answer)


def test_another_precision_is_compared_with_the_first_ones_full_cache(
    needle_int8_dir: Path,
) -> None:
    precisions = [("f32", "f32"), ("u4", "u4")]
    configurations = make_configurations(["default"], [Fraction(1, 2)], precisions)
    _, (found,) = measured(needle_int8_dir, configurations, CHAT, settings=["known", "unknown"])
    exact, exact_half, low, low_half = (found.scores["unknown", c] for c in configurations)
    assert exact.mean_kl == 0
    assert (low.mean_kl or 0) > 0
    assert (exact_half.mean_kl or 0) > 0
    assert (low_half.mean_kl or 0) > 0
    assert low.kv_bytes < 0.3 * exact.kv_bytes
