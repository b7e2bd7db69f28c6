"""What a benchmark is asked for: one frozen set of options, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ov_kvcrush.benchmark.contestants import CONTESTANTS, find_contestant
from ov_kvcrush.benchmark.side_setup import require_budget
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.machine import num_processors
from ov_kvcrush.precisions import AUTO, require_precision_pair

_THREADS = "INFERENCE_NUM_THREADS"


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a benchmark is asked for; what is left open depends on the model.

    Attributes:
        model_dir: exported model.
        device: name of the device.
        engines: as ``find_contestant`` takes them, in the order in which they are shown.
        prompt_tokens: lengths of prompts; empty for 4,096, or what the model's context has room
            for, and with a shared document for a short question behind it.
        answer_tokens: of each answer; None for 64.
        concurrency: numbers of requests that arrive together.
        max_cache_sizes: totals, 0 for none; empty for none and a quarter of the shortest prompt.
        precisions: of keys and of values; None is as exported.
        next_turn_tokens: of the question each chat goes on with; 0 for none.
        shared_document: tokens that all prompts of a turn begin with; 0 where no two begin alike.
        pool_size: tokens of all sequences together; None for what they need.
        repeat: turns of each side in each order of compiling.
        num_threads: processors of each side; None for all there are.
        max_num_batched_tokens: of one inference, for all sides; None for our default, and for whole
            prompts at openvino_genai, as its ``LLMPipeline`` reads them.
        properties: of the plugin.
        decode_precision: of our engine.
        prompt_lookup: likewise.
        quick: short prompts and answers, one turn and one order, where nothing else is asked for.

    Raises:
        ConfigError: a value that no benchmark can have.
    """

    model_dir: Path
    device: str = "CPU"
    engines: tuple[str, ...] = tuple(CONTESTANTS)
    prompt_tokens: tuple[int, ...] = ()
    answer_tokens: int | None = None
    concurrency: tuple[int, ...] = (1,)
    max_cache_sizes: tuple[int, ...] = ()
    precisions: tuple[tuple[str, str] | None, ...] = (None,)
    next_turn_tokens: int = 0
    shared_document: int = 0
    pool_size: int | None = None
    repeat: int | None = None
    num_threads: int | None = None
    max_num_batched_tokens: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    decode_precision: str = AUTO
    prompt_lookup: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        for name in self.engines:
            find_contestant(name)
        for precision in self.precisions:
            if precision is not None:
                require_precision_pair(*precision)
        for total in self.max_cache_sizes:
            require_budget(total)
        if self.prompt_tokens and min(self.prompt_tokens) <= self.shared_document:
            raise ConfigError(
                f"a shared document of {self.shared_document:,} tokens leaves nothing of a prompt "
                f"of {min(self.prompt_tokens):,} to be asked",
                "Give longer prompts with --prompt-tokens: the document counts in them.",
            )
        if _THREADS in self.properties:
            raise ConfigError(
                f"{_THREADS} is the same for every engine", "Give --threads in its place."
            )
        if self.num_threads is not None and self.num_threads > num_processors():
            raise ConfigError(
                f"--threads {self.num_threads} is more than the {num_processors()} processors here",
                "Leave it out for all of them.",
            )
