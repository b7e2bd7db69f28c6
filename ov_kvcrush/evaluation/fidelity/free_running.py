"""Answers that nobody is told: how far they go like the full cache's, and openvino_genai's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import policy_config
from ov_kvcrush.evaluation.policies import FULL
from ov_kvcrush.runtime.generation.model_settings import load_model_settings
from ov_kvcrush.runtime.generation.request import Generation
from ov_kvcrush.runtime.generation.settings import resolve_generation_config
from ov_kvcrush.runtime.interface import Engine, EngineLimits, make_engine

if TYPE_CHECKING:
    from openvino_genai import Tokenizer


def tokens_alike(answer: Sequence[int], wanted: Sequence[int]) -> float:
    """Part of the tokens of ``wanted`` before the first in which ``answer`` differs."""
    count = 0
    for ours, theirs in zip(answer, wanted, strict=False):
        if ours != theirs:
            break
        count += 1
    return count / len(wanted)


def end_tokens(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end an answer of the model in ``folder``."""
    settings = resolve_generation_config(load_model_settings(folder, tokenizer), None, {})
    return frozenset({*settings.stop_token_ids, settings.eos_token_id} - {-1})


# Whatever the model asks for: a penalty would change answers, and is not what is compared.
_LIKELIEST = {
    "do_sample": False,
    "frequency_penalty": 0.0,
    "min_new_tokens": 0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}


@dataclass(frozen=True)
class GenaiAnswers:
    """What openvino_genai writes with its own full cache and with its evictions.

    Attributes:
        folder: exported model.
        tokenizer: of the model.
        device: name of the device.
        properties: of the plugin.
        chunk: tokens of a prompt that are read at once.
    """

    folder: Path
    tokenizer: Tokenizer
    device: str
    properties: Mapping[str, Any]
    chunk: int

    def full(
        self, tokens: Sequence[int], count: int, precision: tuple[str, str] | None
    ) -> list[int]:
        """At most ``count`` tokens that follow ``tokens``, nothing evicted."""
        return self.cut(tokens, count, Configuration(FULL, "genai", None, precision), 0)

    def cut(
        self, tokens: Sequence[int], count: int, configuration: Configuration, budget: int
    ) -> list[int]:
        """The same, with one of its evictions and ``budget`` tokens in all."""
        engine = self.engine(configuration, budget, len(tokens) + count + 1)
        return list(self.answer(engine, tokens, count).tokens)

    def engine(self, configuration: Configuration, budget: int, room: int) -> Engine:
        """One that keeps ``budget`` tokens as ``configuration`` has it, or all where that does.

        Args:
            configuration: openvino_genai's; each budget takes an engine of its own, and two models
                at a time would be too many.
            budget: in tokens.
            room: tokens of a prompt and its answer, at most.
        """
        if configuration.keep is None:
            config = configuration.cache_config(0, None)
        else:
            key, value = configuration.precision or (None, None)
            config = dataclasses.replace(
                policy_config(configuration, budget),
                key_cache_precision=key,
                value_cache_precision=value,
            )
        # openvino_genai 2026.4.1 corrupts the heap when a pool of u4 grows: it shall not grow.
        config = dataclasses.replace(config, pool_size=room)
        limits = EngineLimits(max_num_batched_tokens=self.chunk)
        return make_engine(
            "genai", self.folder, self.tokenizer, self.device, config, self.properties, limits
        )

    def answer(self, engine: Engine, tokens: Sequence[int], count: int) -> Generation:
        """At most ``count`` likeliest tokens that follow ``tokens``, and what they cost."""
        settings = load_model_settings(self.folder, self.tokenizer)
        changes = {**_LIKELIEST, "max_new_tokens": count}
        request = engine.add_request(tokens, resolve_generation_config(settings, None, changes))
        while not request.finished:
            engine.step()
        if request.error is not None:
            raise request.error
        return request.generations[0]
