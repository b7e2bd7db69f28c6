"""Answers of a given form, sampled where a model would hardly come to it by itself."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import GenerationConfig, GenerationFinishReason, StructuredOutputConfig

from ov_kvcrush import AsyncLLMPipeline, DecodedResults, Grammar, KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import (
    ConfigError,
    ContextError,
    GrammarError,
    GrammarFailedError,
    UnsupportedError,
)
from ov_kvcrush.runtime.grammar import grammar_builder
from ov_kvcrush.runtime.grammar.grammar_builder import BuiltGrammar, GrammarBuilder
from tests.support.coroutines import ENOUGH, run
from tests.support.drafts import guesses
from tests.support.engines import (
    F32,
    assert_nothing_held,
    engine_of,
    finish,
    greedy,
    prompt_of,
)
from tests.support.schemas import SCHEMAS, require_valid

SEEDS = range(3)
# Longer ones are cut: the budget is 256 tokens.
QUESTIONS = ["Hello", "Name a colour.", "The box is red and the door is blue. " * 40]
WILD: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 250}

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
# Derived in ever more ways as it grows.
AMBIGUOUS = Grammar.lark('start: s{200}\ns: s s | "a" | "b"\n')


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> LLMPipeline:
    config = KVCacheConfig(max_cache_size=256, pool_size=32768)
    return LLMPipeline(needle_int8_dir, kv_cache_config=config)


def test_every_answer_is_what_its_schema_allows(pipeline: LLMPipeline) -> None:
    assert len(SCHEMAS) >= 40

    async def answers() -> list[DecodedResults]:
        asynchronous = AsyncLLMPipeline(pipeline)
        asked = [
            asynchronous.generate(
                QUESTIONS[seed],
                structured_output_config=Grammar.json_schema(schema),
                rng_seed=seed,
                **WILD,
            )
            for schema in SCHEMAS.values()
            for seed in SEEDS
        ]
        try:
            return list(await asyncio.gather(*asked))
        finally:
            asynchronous.close()

    results = run(answers())
    wanted = [schema for schema in SCHEMAS.values() for _ in SEEDS]
    for result, schema in zip(results, wanted, strict=True):
        require_valid(result.texts[0], schema)
        assert result.finish_reasons == [GenerationFinishReason.STOP]
    assert any(result.metrics[0].num_evicted_tokens for result in results)
    assert len({result.texts[0] for result in results}) > len(SCHEMAS)


@pytest.mark.parametrize(
    "sampling", [{}, {"min_p": 0.2}, {"top_k": 3}, {"repetition_penalty": 2.0}]
)
def test_what_else_chooses_a_token_chooses_among_those_left(
    pipeline: LLMPipeline, sampling: dict[str, Any]
) -> None:
    form = Grammar.regex("(no|yes), (maybe|never)[.!]")
    answers = pipeline.generate(
        "Hello", structured_output_config=form, num_return_sequences=4, **WILD, **sampling
    )
    assert isinstance(answers, DecodedResults)
    words = {word for text in answers.texts for word in text[:-1].split(", ")}
    assert words <= {"no", "yes", "maybe", "never"}
    assert all(text[-1] in ".!" for text in answers.texts)


def test_several_sequences_each_follow_the_grammar_themselves(pipeline: LLMPipeline) -> None:
    answers = pipeline.generate(
        QUESTIONS[2],
        structured_output_config=Grammar.json_schema(PERSON),
        num_return_sequences=5,
        **WILD,
    )
    assert isinstance(answers, DecodedResults)
    values = [require_valid(text, PERSON) for text in answers.texts]
    assert len({value["name"] for value in values}) > 1


def test_a_greedy_answer_ends_where_it_is_whole(pipeline: LLMPipeline) -> None:
    form = Grammar.choice(["yes", "no"])
    answer = pipeline.generate(["Hello"], structured_output_config=form, max_new_tokens=20)
    assert isinstance(answer, DecodedResults)
    assert answer.texts[0] in ("yes", "no")
    assert answer.finish_reasons == [GenerationFinishReason.STOP]


def test_where_no_token_ends_an_answer_it_ends_by_itself(pipeline: LLMPipeline) -> None:
    config = GenerationConfig(max_new_tokens=20, stop_token_ids={4999})
    config.structured_output_config = StructuredOutputConfig(regex="abc|abd")
    tokens = pipeline.get_tokenizer().encode("abc").input_ids.data[0].tolist()
    answer = pipeline.generate(["Hello"], config)
    assert isinstance(answer, DecodedResults)
    assert answer.texts[0] in ("abc", "abd")
    assert answer.finish_reasons == [GenerationFinishReason.STOP]
    assert len(answer.tokens[0]) <= len(tokens) + 1


def test_a_chat_goes_on_without_the_form(pipeline: LLMPipeline) -> None:
    chat = pipeline.chat()
    answer = chat.ask("Who?", structured_output_config=Grammar.json_schema(PERSON), **WILD)
    require_valid(answer.texts[0], PERSON)
    free = chat.ask("And who else?", max_new_tokens=8)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(free.texts[0])
    chat.close()


def test_drafts_change_no_token(needle_f32_dir: Path) -> None:
    pipe = LLMPipeline(needle_f32_dir, config=F32, prompt_lookup=True)
    settings: dict[str, Any] = {
        "structured_output_config": Grammar.json_schema(SCHEMAS["string record"]),
        "apply_chat_template": False,
        "rng_seed": 3,
        **WILD,
    }
    wanted = pipe.generate("Tell me: ", **settings)
    require_valid(str(wanted), SCHEMAS["string record"])
    tokens = pipe.get_tokenizer().encode("Tell me: ").input_ids.data[0].tolist()
    tokens += pipe.loaded_model.last[0].tokens
    for share_true in (1.0, 0.6):
        with guesses([tokens], share_true):
            assert pipe.generate("Tell me: ", **settings) == wanted
        (made,) = pipe.loaded_model.last
        assert 0 < made.metrics.num_accepted_tokens <= made.metrics.num_drafted_tokens


def test_a_sequence_that_is_preempted_goes_on_where_it_was(pipeline: LLMPipeline) -> None:
    model = pipeline.loaded_model
    engine: Any = model.engine
    config = model.settings(None, {"structured_output_config": Grammar.json_schema(PERSON), **WILD})
    prompt = pipeline.get_tokenizer().encode("Who is it?").input_ids.data[0].tolist()
    request = engine.add_request(prompt, config)
    while not request.finished:
        engine.step()
        sequence = request.generations[0].sequence
        if len(request.generations[0].tokens) in (3, 8) and sequence in engine.scheduler.running:
            engine.preempt(sequence)
    assert request.generations[0].metrics.num_preemptions >= 2
    require_valid(pipeline.get_tokenizer().decode(request.generations[0].tokens), PERSON)


@pytest.fixture
def small_grammars(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come to their limits within few tokens."""
    monkeypatch.setattr(grammar_builder, "_STEP_ITEMS", 500)


def test_one_that_fails_among_drafts_leaves_every_page_where_it_belongs(
    needle_f32_dir: Path, small_grammars: None
) -> None:
    engine = engine_of(needle_f32_dir, pool_size=2048, prompt_lookup=8)
    form = AMBIGUOUS.to_config()
    prompt = prompt_of(40)
    config = GenerationConfig(max_new_tokens=300, structured_output_config=form)
    with guesses([], share_true=0.0):
        request = engine.add_request(prompt, config)
        other = engine.add_request(prompt_of(50, seed=1), greedy(30))
        finish(engine, request, other)
    assert isinstance(request.error, GrammarFailedError)
    assert other.error is None
    assert_nothing_held(engine)


def test_a_grammar_that_fails_ends_its_own_answer_alone(
    pipeline: LLMPipeline, small_grammars: None
) -> None:
    async def ask() -> list[Any]:
        asynchronous = AsyncLLMPipeline(pipeline)
        try:
            asked = (
                asynchronous.generate(
                    "Hello", structured_output_config=AMBIGUOUS, max_new_tokens=300
                ),
                asynchronous.generate("Hello", max_new_tokens=30),
                asynchronous.generate(
                    "Hello", structured_output_config=Grammar.choice(["yes"]), max_new_tokens=9
                ),
            )
            return list(await asyncio.gather(*asked, return_exceptions=True))
        finally:
            asynchronous.close()

    failed, free, bound = run(ask())
    assert isinstance(failed, GrammarFailedError)
    assert "failed after" in failed.message
    assert "simpler" in failed.hint
    assert free.texts[0] == pipeline.generate("Hello", max_new_tokens=30)
    assert bound.texts == ["yes"]


def test_nobody_waits_for_a_grammar_but_those_it_is_for(
    pipeline: LLMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, may_build = GrammarBuilder._built, threading.Event()

    def slowly(builder: GrammarBuilder, grammar: Grammar) -> BuiltGrammar:
        assert may_build.wait(ENOUGH)
        return built(builder, grammar)

    monkeypatch.setattr(GrammarBuilder, "_built", slowly)

    async def ask() -> None:
        asynchronous = AsyncLLMPipeline(pipeline)
        forms = [Grammar.choice([f"number {number}"]) for number in range(4)]
        try:
            bound = [
                asynchronous.generate("Hello", structured_output_config=form, max_new_tokens=20)
                for form in forms
            ]
            assert (await asynchronous.generate("Hello", max_new_tokens=4)).texts[0]
            with pytest.raises(ContextError):  # made into tokens in a thread of its own
                await asynchronous.generate("word " * 30_000, max_new_tokens=4)
            assert not any(answer.done for answer in bound)
            bound.pop().cancel()
            may_build.set()
            texts = [(await answer).texts[0] for answer in bound]
            assert texts == ["number 0", "number 1", "number 2"]
        finally:
            may_build.set()
            asynchronous.close()

    run(ask())


@pytest.mark.parametrize(
    ("changes", "name"), [({"ignore_eos": True}, "ignore_eos"), ({"min_new_tokens": 4}, "min_new")]
)
def test_an_answer_of_a_given_form_ends_where_it_is_whole(
    pipeline: LLMPipeline, changes: dict[str, Any], name: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}.*ends where it is whole"):
        pipeline.generate(
            "Hello", structured_output_config=Grammar.json_object(), max_new_tokens=9, **changes
        )


@pytest.mark.parametrize("given", [{"json_schema": "{}"}, "{}", 3, dict])
def test_a_form_is_a_config_or_a_grammar(pipeline: LLMPipeline, given: object) -> None:
    with pytest.raises(ConfigError, match="it takes a StructuredOutputConfig or a Grammar"):
        pipeline.generate("Hello", structured_output_config=given, max_new_tokens=9)


def test_a_form_that_is_refused_leaves_the_pipeline_as_it_was(pipeline: LLMPipeline) -> None:
    for form in (
        Grammar.json_schema({"not": {}}),
        Grammar.regex("(?=a)b"),
        Grammar.lark("start: a"),
    ):
        with pytest.raises(GrammarError, match="cannot be served"):
            pipeline.generate("Hello", structured_output_config=form, max_new_tokens=9)
    assert pipeline.generate("Hello", max_new_tokens=3)


def test_the_genai_engine_is_handed_what_it_knows(needle_int8_dir: Path) -> None:
    pipe = LLMPipeline(needle_int8_dir, engine="genai")
    for form in (Grammar.regex("yes|no"), Grammar.json_schema({"enum": ["yes", "no"]})):
        answer = pipe.generate("Who?", structured_output_config=form, max_new_tokens=60)
        assert str(answer).strip('"') in ("yes", "no")
    with pytest.raises(UnsupportedError, match="takes grammars in EBNF"):
        pipe.generate("Who?", structured_output_config=AMBIGUOUS, max_new_tokens=9)
    with pytest.raises(GrammarError, match="regular expression cannot be served: unclosed group"):
        pipe.generate("Who?", structured_output_config=Grammar.regex("(a"), max_new_tokens=9)
    assert pipe.generate("Who?", max_new_tokens=3)
