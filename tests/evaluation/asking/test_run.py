"""Whole runs on the small model: answers are the pipeline's, whatever runs beside or before."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.asking.asker import Asker
from ov_kvcrush.evaluation.asking.journal import open_journal
from ov_kvcrush.evaluation.asking.rendering import SampleReader
from ov_kvcrush.evaluation.asking.results import Cell, SampleResult
from ov_kvcrush.evaluation.asking.run import AskingRun
from ov_kvcrush.evaluation.configurations import Configuration, make_configurations
from ov_kvcrush.evaluation.fidelity.cut_forks import CutRule
from ov_kvcrush.evaluation.fidelity.free_running import end_tokens
from ov_kvcrush.evaluation.fidelity.results import SETTINGS
from ov_kvcrush.evaluation.fidelity.scorers import ScorerSettings
from ov_kvcrush.evaluation.policies import find_policy
from ov_kvcrush.evaluation.suites.sample import Sample
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from ov_kvcrush.progress import Silent
from tests.support.engines import F32
from tests.support.samples import exact, flights

CHUNK = 128
FULL = Configuration("full", "paged")
GENAI_FULL = Configuration("full", "genai")
POLICIES = ("default", "snapkv-k7")
KEEPS = (Fraction(1, 2), Fraction(1, 4))
COMPARED = make_configurations(POLICIES, KEEPS, [])
# One whose replies are the model's own, one with others, one with a single question.
SAMPLES = [
    flights(3, seed=1),
    flights(3, seed=2, replies=("It is A99.", None, None)),
    flights(1, seed=3),
]


def asking(folder: Path, configurations: list[Configuration], **changes: Any) -> AskingRun:
    settings = {"properties": F32, "chunk": CHUNK, **changes}
    return AskingRun(folder, configurations, exact, **settings)


@pytest.fixture(scope="module")
def compared(needle_int8_dir: Path) -> list[SampleResult]:
    return list(asking(needle_int8_dir, COMPARED).run(SAMPLES, Silent()))


def cell_of(result: SampleResult, setting: str, configuration: Configuration) -> Cell:
    (cell,) = (
        cell
        for cell in result.cells
        if (cell.setting, cell.configuration) == (setting, configuration.name)
    )
    return cell


def texts_of(cell: Cell) -> list[str]:
    return [answer.text for answer in cell.answers]


def chat(folder: Path, sample: Sample, config: KVCacheConfig) -> list[str]:
    """What the pipeline answers to all questions of ``sample``."""
    pipe = LLMPipeline(folder, kv_cache_config=config, config=F32, max_num_batched_tokens=CHUNK)
    conversation, context, texts = pipe.chat(), sample.context, []
    for question in sample.questions:
        results = conversation.ask(
            context + question.text, do_sample=False, max_new_tokens=question.most_tokens
        )
        assert not results.metrics[0].restarted
        context = ""
        texts.append(results.texts[0])
        if question.reply is not None:
            *messages, _ = conversation.messages
            conversation.replace_messages(
                [*messages, {"role": "assistant", "content": question.reply}]
            )
    return texts


@pytest.mark.parametrize("configuration", COMPARED, ids=lambda one: one.name)
def test_answers_are_the_pipelines(
    compared: list[SampleResult], needle_int8_dir: Path, configuration: Configuration
) -> None:
    for sample, result in zip(SAMPLES[:2], compared, strict=False):
        cell = cell_of(result, "known", configuration)
        config = KVCacheConfig()
        if configuration.keep is not None:
            assert cell.budget == int(configuration.keep * result.num_tokens)
            sizes: dict[str, Any] = {"max_cache_size": cell.budget, "decode_slack": 1024}
            sizes |= {**find_policy(configuration.policy).settings, "prefill_budget": 0}
            config = KVCacheConfig(**sizes)
        assert texts_of(cell) == chat(needle_int8_dir, sample, config)


def test_every_cache_is_asked_in_every_setting(compared: list[SampleResult]) -> None:
    for sample, result in zip(SAMPLES, compared, strict=True):
        assert (result.id, result.task) == (sample.id, "flights")
        wanted = [(setting, c.name) for c in COMPARED for setting in SETTINGS]
        assert [(cell.setting, cell.configuration) for cell in result.cells] == wanted
        for cell in result.cells:
            assert len(cell.answers) == len(sample.questions)
            assert all(
                answer.score == exact(answer.text, question)
                for answer, question in zip(cell.answers, sample.questions, strict=True)
            )
            if cell.configuration == FULL.name:
                assert (cell.budget, cell.kept) == (0, result.num_tokens)
            else:
                assert cell.budget - 1 <= cell.kept <= cell.budget
                assert cell.kv_bytes < cell_of(result, cell.setting, FULL).kv_bytes


def test_the_small_model_finds_what_is_still_there(compared: list[SampleResult]) -> None:
    scores = [
        answer.score for result in compared for answer in cell_of(result, "known", FULL).answers
    ]
    assert sum(scores) >= len(scores) - 2


def test_answers_are_the_same_together_and_alone(
    compared: list[SampleResult], needle_int8_dir: Path
) -> None:
    in_groups = asking(needle_int8_dir, COMPARED, together=5)
    assert list(in_groups.run(SAMPLES, Silent())) == compared
    for configuration in COMPARED[::2]:
        alone = asking(needle_int8_dir, [configuration], settings=("unknown",))
        for result, one in zip(compared, alone.run(SAMPLES, Silent()), strict=True):
            assert list(one.cells) == [cell_of(result, "unknown", configuration)]


def test_a_text_is_continued_from_its_opening(needle_int8_dir: Path) -> None:
    sample = replace(SAMPLES[2], is_chat=False, opening=" It is gate")
    configurations = make_configurations(["default"], [Fraction(1, 2)], [])
    # A prompt that is not read up to its question first is read in the pipeline's chunks.
    run = asking(needle_int8_dir, configurations, settings=("known",))
    (result,) = run.run([sample], Silent())
    pipe = LLMPipeline(needle_int8_dir, config=F32, max_num_batched_tokens=CHUNK)
    text = sample.context + sample.questions[0].text + sample.opening
    wanted = pipe.generate(text, max_new_tokens=12, do_sample=False, apply_chat_template=False)
    assert texts_of(cell_of(result, "known", FULL)) == [str(wanted)]


def test_openvino_genai_is_asked_where_its_caches_are_cut(needle_int8_dir: Path) -> None:
    evicting = Configuration("genai-kvcrush", "genai", Fraction(1, 2))
    ours = Configuration("default", "paged", Fraction(1, 2))
    run = asking(needle_int8_dir, [FULL, GENAI_FULL, evicting, ours], settings=("known", "unknown"))
    (result,) = run.run(SAMPLES[:1], Silent())
    of_genai = [cell for cell in result.cells if "genai" in cell.configuration]
    assert [(cell.setting, cell.configuration) for cell in of_genai] == [
        ("known", "full cache (genai)"),
        ("known", "genai-kvcrush 1/2"),
    ]
    full, cut = of_genai
    assert texts_of(full) == texts_of(cell_of(result, "known", FULL))
    assert full.kept == result.num_tokens
    assert cut.budget == cut.kept == result.num_tokens // 2 // 32 * 32
    assert cut.budget == cell_of(result, "known", ours).budget
    assert 0 < cut.kv_bytes < full.kv_bytes
    assert len(cut.answers) == 3


def test_nothing_is_held_behind_a_sample(needle_int8_dir: Path) -> None:
    tokenizer = Tokenizer(needle_int8_dir)
    reader = SampleReader(PromptEncoder(tokenizer))
    prompt = reader.read(SAMPLES[0])
    assert prompt is not None
    # No more than it says: every page that is missing fails.
    pool = Asker.pool_size(prompt.most_tokens, together=4)
    settings = ScorerSettings(needle_int8_dir, "CPU", F32, CHUNK, "same")
    ((scorer, served),) = settings.make(COMPARED, pool)
    ends = end_tokens(needle_int8_dir, tokenizer)
    asker = Asker(scorer, reader, ends, exact, SETTINGS, CutRule(1.5, False), 4)
    shares: list[float] = []
    asker.ask(prompt, served, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    scorer.cache.check_integrity([])
    assert scorer.cache.used_bytes == 0


class Steps(Silent):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.shares: list[float] = []

    def step(self, number: int, total: int, title: str) -> None:
        self.told.append(f"{number}/{total} {title}")

    def advance(self, share: float) -> None:
        self.shares.append(share)

    def note(self, text: str) -> None:
        self.told.append(text)


def test_a_run_goes_on_to_the_same_file_wherever_it_was_killed(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    path, run = tmp_path / "journal", asking(needle_int8_dir, COMPARED[:3], settings=("unknown",))
    request = run.request(SAMPLES, {"seed": 1})

    def go_on(steps: Steps, num_wanted: int = len(SAMPLES)) -> list[SampleResult]:
        with (
            open_journal(path, request) as journal,
            closing(run.run(SAMPLES, steps, journal)) as results,
        ):
            return list(islice(results, num_wanted))

    steps = Steps()
    wanted = go_on(steps)
    assert steps.told == ["1/1 samples 1 to 3, each of 3 caches"]
    assert (steps.shares[0], steps.shares[-1]) == (0, 1)
    assert steps.shares == sorted(steps.shares)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines[1:]] == [s.id for s in SAMPLES]
    for num_done in range(len(SAMPLES)):
        path.unlink()
        assert go_on(Steps(), num_done) == wanted[:num_done]
        with path.open("ab") as stream:  # what a kill in the middle of writing leaves
            stream.write(lines[num_done + 1][:40])
        steps = Steps()
        assert go_on(steps) == wanted
        assert steps.told == [f"1/1 samples {num_done + 1} to 3, each of 3 caches"]
        assert path.read_bytes() == whole
    # Nothing is left to ask, so no model is compiled.
    steps = Steps()
    assert go_on(steps) == wanted
    assert steps.told == []


def test_a_request_tells_what_results_depend_on(needle_int8_dir: Path, tmp_path: Path) -> None:
    run = asking(needle_int8_dir, COMPARED)
    request = run.request(SAMPLES, {"seed": 1})
    assert json.loads(json.dumps(request)) == request
    moved = tmp_path / "moved"
    moved.symlink_to(needle_int8_dir)
    assert replace(run, model_dir=moved).request(SAMPLES, {"seed": 1}) == request
    others = {
        "suite": run.request(SAMPLES, {"seed": 2}),
        "samples": run.request(SAMPLES[:2], {"seed": 1}),
        "chunk": replace(run, chunk=64).request(SAMPLES, {"seed": 1}),
        "settings": replace(run, settings=("known",)).request(SAMPLES, {"seed": 1}),
        "configurations": replace(run, configurations=[FULL]).request(SAMPLES, {"seed": 1}),
    }
    for name, other in others.items():
        assert [key for key in request if request[key] != other[key]] == [name]
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in needle_int8_dir.iterdir():
        (changed / path.name).symlink_to(path)
    (changed / "chat_template.jinja").unlink()
    other = replace(run, model_dir=changed).request(SAMPLES, {"seed": 1})
    assert [key for key in request if request[key] != other[key]] == ["model"]


def test_what_does_not_fit_is_left_out_and_told(needle_int8_dir: Path) -> None:
    short = replace(SAMPLES[2], context="Nothing leaves.\n\n")
    long = replace(SAMPLES[2], context=SAMPLES[2].context * 25)
    run = asking(needle_int8_dir, [COMPARED[1]], settings=("known",))
    steps = Steps()
    results = run.run([long, SAMPLES[2], short], steps)
    assert [result.id for result in results] == [SAMPLES[2].id]
    assert steps.told[0] == (
        "left out: 1 longer than the model's context, 1 too short for the budgets"
    )
    with pytest.raises(ConfigError, match="no sample is left to ask: 1 too short for the budgets"):
        next(run.run([short], Silent()))


def test_caches_that_could_not_be_told_apart_are_refused(needle_int8_dir: Path) -> None:
    with pytest.raises(ConfigError, match="default 1/4 is asked for twice"):
        asking(needle_int8_dir, [COMPARED[3], COMPARED[3]])
    asking(needle_int8_dir, [FULL, GENAI_FULL])
