"""Every architecture the export names runs on the paged engine as openvino_genai runs it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
import pytest
from numpy.typing import NDArray

from ov_kvcrush.gate import Gate
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_graph import read_paged_graph
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages.cache_layer import HeadGrouping, undivided
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.batches import batch
from tests.support.engines import (
    EVICTING,
    F32,
    assert_nothing_held,
    engine_of,
    finish,
    greedy,
    prompt_of,
    sequence_of,
)
from tests.support.exported import exported_random
from tests.support.head_groups import GROUPINGS, divided, held_by_head, mixed
from tests.support.model_factory import ARCHITECTURES, SLIDING_WINDOW, make_model
from tests.support.session_process import ask

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "Llama, 16 layers": ("Llama", {"num_hidden_layers": 16, "hidden_size": 128}),
}
exact_engine = partial(engine_of, properties=F32, max_num_batched_tokens=64)


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def folder(name: str) -> Path:
    architecture, changes = MODELS[name]
    return exported_random(architecture, **changes)


@pytest.fixture
def source(name: str, tmp_path: Path) -> Path:
    """What it was exported from, made once more."""
    architecture, changes = MODELS[name]
    return make_model(tmp_path / "source", architecture, **changes)


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    # Long enough to leave every sliding window behind.
    return prompt_of(3 * SLIDING_WINDOW, 3)


def test_greedy_tokens_equal_openvino_genai(folder: Path, prompt: list[int]) -> None:
    engine = exact_engine(folder)
    (tokens,) = finish(engine, engine.add_request(prompt, greedy(40)))
    peer = openvino_genai.LLMPipeline(folder, "CPU", **F32)
    wanted = peer.generate(ov.Tensor(np.array([prompt], np.int64)), greedy(40)).tokens[0]
    assert tokens == wanted


def test_the_state_that_a_gate_looks_at_is_what_enters_the_k_projection(
    folder: Path, source: Path, prompt: list[int]
) -> None:
    wanted = states_into_projections(source, prompt)
    model = PagedModel(folder, properties=F32, shows_states=True)
    rng = np.random.default_rng(0)
    weights = tuple(
        rng.normal(size=(states.shape[1], layer.num_kv_heads)).astype(np.float32)
        for states, layer in zip(wanted, model.layers, strict=True)
    )
    biases = tuple(np.zeros(layer.num_kv_heads, np.float32) for layer in model.layers)
    gate = Gate(weights, biases, fingerprint="")
    gated = PagedModel(folder, properties=F32, gate=gate)
    apart = PagedModel(folder, precisions=_apart(folder), properties=F32, gate=gate)
    for one in (model, gated, apart):
        one.reserve([8] * len(one.layers))
    whole = replace(batch(model, prompt, 0, []), window_rows=np.arange(len(prompt), dtype=np.int32))
    told = model.forward(whole)
    for states, entering in zip(told.states, wanted, strict=True):
        np.testing.assert_allclose(states, entering, atol=1e-4)
    for one in (gated, apart):
        scored = one.forward(batch(one, prompt, 0, []))
        for scores, entering, weight in zip(scored.gates, wanted, weights, strict=True):
            np.testing.assert_allclose(scores, entering @ weight, atol=1e-3)


def test_what_a_gate_is_taught_with_is_found(folder: Path, source: Path, prompt: list[int]) -> None:
    streams, outputs = residual_streams_and_projections(source, prompt)
    model = PagedModel(folder, properties=F32, shows_states=True)
    model.reserve([8] * len(model.layers))
    whole = replace(batch(model, prompt, 0, []), window_rows=np.arange(len(prompt), dtype=np.int32))
    told = model.forward(whole)
    for norms, stream in zip(told.residual_norms, streams, strict=True):
        np.testing.assert_allclose(norms, np.linalg.norm(stream, axis=1), rtol=1e-4)
    value = np.random.default_rng(0).normal(size=model.layers[0].value_head_size)
    for gram, weights, layer in zip(model.output_grams, outputs, model.layers, strict=True):
        by_head = weights.reshape(len(weights), layer.num_query_heads, layer.value_head_size)
        added = np.linalg.norm(by_head @ value, axis=0)
        np.testing.assert_allclose(np.sqrt(value @ gram @ value), added, rtol=1e-4)


def residual_streams_and_projections(
    source: Path, prompt: list[int]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """By layer what PyTorch gives to it, ``[tokens, hidden]``, and its output projection."""
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    streams: list[NDArray[np.float32]] = []
    for layer in reference.model.layers:
        layer.register_forward_pre_hook(lambda _, args: streams.append(args[0][0].numpy()))
    with torch.no_grad():
        reference(torch.tensor([prompt]))
    modules = reference.named_modules()
    outputs = [m.weight.detach().numpy() for name, m in modules if name.endswith("o_proj")]
    return streams, outputs


def states_into_projections(source: Path, prompt: list[int]) -> list[NDArray[np.float32]]:
    """By layer ``[tokens, hidden]``, what PyTorch gives to the projection that makes keys."""
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    seen: list[NDArray[np.float32]] = []
    for name, module in reference.named_modules():
        if name.endswith(("k_proj", "qkv_proj")):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].numpy()))
    with torch.no_grad():
        reference(torch.tensor([prompt]))
    return seen


def test_a_part_for_each_layer_gives_the_same_bits(folder: Path, prompt: list[int]) -> None:
    def last_logits(precisions: list[LayerPrecision]) -> NDArray[np.float32]:
        model = PagedModel(folder, precisions=precisions, properties=F32)
        model.reserve([8] * len(model.layers))
        told = model.forward(batch(model, prompt, 0, [len(prompt) - 1]))
        return np.array(told.logits)

    apart = _apart(folder)
    np.testing.assert_array_equal(
        last_logits(apart), last_logits([LayerPrecision("f32", "f32")] * len(apart))
    )


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_divided_heads_give_the_same_bits(folder: Path, prompt: list[int], grouping: str) -> None:
    def logits(grouping: HeadGrouping) -> list[NDArray[np.float32]]:
        model = PagedModel(folder, properties=F32, grouping=grouping)
        if grouping is mixed:  # it divides layers with a window too
            assert len(model.layers) > model.num_model_layers
        model.reserve([8] * len(model.layers))
        told = []
        for past, end in ((0, 100), (100, len(prompt) - 1), (len(prompt) - 1, len(prompt))):
            rows = list(range(end - past))
            told.append(model.forward(batch(model, prompt[past:end], past, rows)).logits.copy())
        return told

    for ours, wanted in zip(logits(GROUPINGS[grouping]), logits(undivided), strict=True):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_divided_heads_keep_what_layers_keep(
    folder: Path, prompt: list[int], grouping: str
) -> None:
    """With even budgets; windows slide on, also where the heads of a layer with one are divided."""

    def answers(engine: PagedEngine) -> list[Any]:
        session = Session()
        told = [ask(engine, session, turn) for turn in (prompt, prompt_of(100, 5))]
        assert session.sequence is not None
        held = held_by_head(engine, session.sequence)
        num_bytes = engine.cache.bytes_of(session.sequence)
        engine.close_session(session)
        assert_nothing_held(engine)
        return [told, held, num_bytes]

    settings = {**EVICTING, "layer_budgets": "uniform", "pool_size": 1024}
    with divided(GROUPINGS[grouping]):
        engine = exact_engine(folder, **settings)
    assert answers(engine) == answers(exact_engine(folder, **settings))


def _apart(folder: Path) -> list[LayerPrecision]:
    """Group sizes mean nothing to f32, but layers that differ in them are compiled apart."""
    num_layers = len(read_paged_graph(folder).layers)
    return [LayerPrecision("f32", "f32", value_group_size=16 * (n % 2)) for n in range(num_layers)]


def test_layers_keep_their_budget_or_their_window(folder: Path, prompt: list[int]) -> None:
    engine = exact_engine(folder, **{**EVICTING, "max_cache_size": 72})
    request = engine.add_request(prompt, greedy(40))
    sequence = sequence_of(request)
    while sequence.num_uncached > 0:
        engine.step()
        if sequence.num_cached == len(prompt):
            break
    while not request.finished:
        for geometry, layer in zip(engine.model.layers, sequence.layers, strict=True):
            limit = geometry.sliding_window + 32 if geometry.sliding_window else 72 + 16
            assert layer.length <= limit
        engine.step()
        engine.check_integrity()
    assert_nothing_held(engine)


def test_prompts_that_begin_alike_answer_as_if_alone(folder: Path, prompt: list[int]) -> None:
    def answer(engine: PagedEngine, tokens: list[int]) -> tuple[list[int], int]:
        request = engine.add_request(tokens, greedy(40))
        finish(engine, request)
        (generation,) = request.generations
        return generation.tokens, generation.metrics.num_reused_tokens

    second = [*prompt[:-10], *prompt[5:15]]
    sharing, alone = exact_engine(folder), exact_engine(folder, prefix_caching=False)
    assert answer(sharing, prompt)[1] == 0
    found, num_reused = answer(sharing, second)
    assert found == answer(alone, second)[0]
    # A window that has slid on has dropped the pages a shorter beginning would need.
    if any(layer.sliding_window for layer in sharing.model.layers):
        assert num_reused in (0, (len(prompt) - 10) // 32 * 32)
    else:
        assert num_reused == (len(prompt) - 10) // 32 * 32
