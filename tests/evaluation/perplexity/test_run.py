"""Perplexity under a budget: nothing is lost where all fits, and something where little does."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.configurations import make_configurations
from ov_kvcrush.evaluation.fidelity.divergence import log_likelihoods
from ov_kvcrush.evaluation.fidelity.texts import Text
from ov_kvcrush.evaluation.perplexity.passages import Passage, make_passages
from ov_kvcrush.evaluation.perplexity.results import PerplexityResults
from ov_kvcrush.evaluation.perplexity.run import PerplexityRun
from ov_kvcrush.progress import Silent
from ov_kvcrush.runtime.model.paged_model import PagedModel
from tests.support.batches import batch
from tests.support.engines import F32
from tests.support.texts import rooms

CONFIGURATIONS = make_configurations(
    ["default", "streaming"], [Fraction(1, 4)], [("u8", "u8")], "paged"
)


@pytest.fixture(scope="module")
def passage(needle_int8_dir: Path) -> Passage:
    tokens = Tokenizer(needle_int8_dir).encode(rooms(60)).input_ids.data[0].tolist()
    return Passage("rooms 1", "rooms", tuple(tokens[:600]))


@pytest.fixture(scope="module")
def results(needle_int8_dir: Path, passage: Passage) -> PerplexityResults:
    run = PerplexityRun(needle_int8_dir, CONFIGURATIONS, properties=F32, chunk=96)
    return PerplexityResults(tuple(CONFIGURATIONS), tuple(run.run([passage], Silent())))


def test_the_full_cache_expects_what_the_model_does(
    needle_int8_dir: Path, passage: Passage, results: PerplexityResults
) -> None:
    model = PagedModel(needle_int8_dir, properties=F32)
    model.reserve([20] * len(model.layers))
    tokens = list(passage.tokens)
    logits = model.forward(batch(model, tokens, 0, list(range(96, 599)))).logits
    wanted = -log_likelihoods(logits, np.array(tokens[97:])).mean()
    assert results.nats(CONFIGURATIONS[0]) == pytest.approx([wanted], abs=0.02)
    assert results.perplexity(CONFIGURATIONS[0]) == pytest.approx(np.exp(wanted), rel=0.02)


def test_a_cut_cache_holds_its_budget_and_what_was_read_since(results: PerplexityResults) -> None:
    (passage,) = results.passages
    full, *cut = (passage.told[one] for one in CONFIGURATIONS)
    assert (full.budget, full.kept) == (0, 600)
    for told in cut:
        assert told.budget == 150
        assert told.kept == pytest.approx(150 + 600 % 96, abs=1)
        assert told.kv_bytes < full.kv_bytes / 2
        assert np.isfinite(told.nats)
    assert results.pairs("default") == [(CONFIGURATIONS[2], CONFIGURATIONS[1])]


def test_what_cannot_be_measured_is_refused_at_once(
    needle_int8_dir: Path, passage: Passage
) -> None:
    genai = make_configurations(["genai"], [Fraction(1, 4)], [])
    with pytest.raises(ConfigError, match="does not tell what it expects"):
        PerplexityRun(needle_int8_dir, genai).check([passage])
    with pytest.raises(ConfigError, match="leave none behind the first"):
        PerplexityRun(needle_int8_dir, CONFIGURATIONS, chunk=600).check([passage])
    tiny = make_configurations(["default"], [Fraction(1, 100)], [], "paged")
    with pytest.raises(ConfigError, match="leaves nothing to choose"):
        PerplexityRun(needle_int8_dir, tiny).check([passage])


def test_passages_follow_one_another_and_all_begin_as_prompts_do() -> None:
    texts = [Text("a", "a", "x" * 25), Text("b", "b", "y" * 7)]
    passages = make_passages(texts, lambda text: list(map(ord, text)), [1, 2], 10)
    assert [passage.id for passage in passages] == ["a 1", "a 2", "a 3"]
    assert all(passage.tokens == (1, 2, *[ord("x")] * 8) for passage in passages)
    with pytest.raises(ConfigError, match="no text has the 100 tokens"):
        make_passages(texts, lambda text: list(map(ord, text)), [1, 2], 100)
    with pytest.raises(ConfigError, match="a conversation"):
        make_passages([Text("c", "c", ({"role": "user"},))], list, [], 3)  # type: ignore[arg-type]
