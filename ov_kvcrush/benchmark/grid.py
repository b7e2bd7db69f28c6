"""What is measured: prompt lengths × numbers of requests × precisions × totals, checked first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import psutil

from ov_kvcrush.benchmark.contestants import find_contestant, is_ours
from ov_kvcrush.benchmark.options import BenchmarkOptions
from ov_kvcrush.benchmark.side_setup import SideSetup
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.errors import ConfigError, ContextError
from ov_kvcrush.machine import num_processors
from ov_kvcrush.model_folder import WEIGHTS_FILE, require_graph
from ov_kvcrush.pipeline.loaded_model import model_context_length
from ov_kvcrush.precisions import SAME
from ov_kvcrush.runtime.interface import DEFAULT_LIMITS
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, pages_for

_PROMPT, _QUICK_PROMPT = 4096, 1024
_ANSWER, _QUICK_ANSWER = 64, 16
_LEAST_PROMPT = 256
_PART_KEPT = 4
_QUESTION = 32
# Beside what sequences take: openvino_genai wants a page more where several grow together.
_SPARE_PAGES = 16


@dataclass(frozen=True)
class Group:
    """The sides that take turns, and what they do.

    Attributes:
        precision: of keys and of values; None is as exported.
        max_cache_size: total of those that evict; 0 where none does.
        setups: of each side.
        workloads: done by each of them.
    """

    precision: tuple[str, str] | None
    max_cache_size: int
    setups: tuple[SideSetup, ...]
    workloads: tuple[Workload, ...]

    @property
    def title(self) -> str:
        """For people."""
        kept = f"{self.max_cache_size:,} tokens kept" if self.max_cache_size else "nothing evicted"
        return f"{kept}, {'/'.join(self.precision)}" if self.precision else kept


@dataclass(frozen=True)
class Grid:
    """A whole benchmark.

    Attributes:
        groups: one after the other.
        num_turns: of each side in each order of compiling.
        orders: of compiling: 1 as they are named, -1 the other way round.
        num_threads: processors of each side.
    """

    groups: tuple[Group, ...]
    num_turns: int
    orders: tuple[int, ...]
    num_threads: int


def make_grid(options: BenchmarkOptions) -> Grid:
    """What ``options`` ask for, with nothing left open.

    Raises:
        ModelError: there is no model.
        ContextError: a prompt and its answer do not fit the model's context.
        ConfigError: the pool is too small, or the memory for so many sides, or nobody takes part.
    """
    require_graph(options.model_dir)
    workloads = _workloads(options)
    num_threads = options.num_threads or num_processors()
    groups = []
    for precision, total in product(options.precisions, _totals(options, workloads)):
        setups = tuple(
            _setup(options, name, total, precision, workloads, num_threads)
            for name in options.engines
            if total or not find_contestant(name).needs_total
        )
        if not setups:
            raise ConfigError(
                f"{' and '.join(options.engines)} cannot run with --max-cache-size 0: nothing is "
                "evicted then",
                "Give a total in tokens, or another --engine.",
            )
        groups.append(Group(precision, total, setups, workloads))
    _require_memory(options, max(len(group.setups) for group in groups))
    num_turns = options.repeat or (1 if options.quick else 2)
    # Of two equal models that are there at a time the one compiled later may decode a few percent
    # faster: it is where their memory lies. So each is the later one half the time.
    return Grid(tuple(groups), num_turns, (1,) if options.quick else (1, -1), num_threads)


def _workloads(options: BenchmarkOptions) -> tuple[Workload, ...]:
    context = model_context_length(options.model_dir)
    answer = options.answer_tokens or (_QUICK_ANSWER if options.quick else _ANSWER)
    lengths = options.prompt_tokens
    if not lengths and options.shared_document:
        lengths = (options.shared_document + _QUESTION,)
    if not lengths:
        length = _QUICK_PROMPT if options.quick else _PROMPT
        behind = Workload(0, answer, 1, options.next_turn_tokens).most_tokens
        while context and length + behind > context and length > _LEAST_PROMPT:
            length //= 2
        lengths = (length,)
    workloads = tuple(
        Workload(length, answer, requests, options.next_turn_tokens, options.shared_document)
        for length, requests in product(lengths, options.concurrency)
    )
    for workload in workloads:
        if 0 < context < workload.most_tokens:
            error = ContextError(workload.prompt_tokens, context)
            error.message = (
                f"{workload.title}: {workload.most_tokens:,} tokens are more than the {context:,} "
                "that the model was made to read"
            )
            error.hint = "Give fewer with --prompt-tokens or --answer-tokens."
            raise error
    return workloads


def _totals(options: BenchmarkOptions, workloads: Sequence[Workload]) -> tuple[int, ...]:
    if options.max_cache_sizes:
        return options.max_cache_sizes
    quarter = min(workload.prompt_tokens for workload in workloads) // _PART_KEPT
    total = max(256, quarter // PAGE_SIZE * PAGE_SIZE)
    return tuple(
        size
        for size in (0, total)
        if size or any(not find_contestant(name).needs_total for name in options.engines)
    )


def _setup(
    options: BenchmarkOptions,
    engine: str,
    total: int,
    precision: tuple[str, str] | None,
    workloads: Sequence[Workload],
    num_threads: int,
) -> SideSetup:
    needed = max(pages_for(w.most_tokens) * w.num_requests for w in workloads) + _SPARE_PAGES
    longest = max(w.most_tokens if w.next_turn_tokens else w.prompt_tokens for w in workloads)
    own_chunk = DEFAULT_LIMITS.max_num_batched_tokens if is_ours(engine) else longest
    setup = SideSetup(
        engine=engine,
        model_dir=options.model_dir,
        device=options.device,
        max_cache_size=total,
        precision=precision,
        pool_size=options.pool_size or needed * PAGE_SIZE,
        num_threads=num_threads,
        max_num_batched_tokens=options.max_num_batched_tokens or own_chunk,
        max_num_seqs=max(DEFAULT_LIMITS.max_num_seqs, *(w.num_requests for w in workloads)),
        properties=options.properties,
        decode_precision=options.decode_precision if is_ours(engine) else SAME,
        prompt_lookup=options.prompt_lookup if is_ours(engine) else 0,
        shares_prefixes=options.shared_document > 0,
    )
    setup.cache_config()  # refuses what does not go together
    for workload in workloads:
        _require_pool(setup, workload)
    return setup


def _require_pool(setup: SideSetup, workload: Workload) -> None:
    """Refuse a pool in which no request could ever be answered; ours may cut while it reads."""
    if is_ours(setup.engine) and setup.evicts:
        return
    needed = workload.prompt_tokens if setup.evicts else workload.most_tokens
    if pages_for(setup.pool_size) < pages_for(needed):
        raise ConfigError(
            f"--pool-size {setup.pool_size:,} is too small for {workload.title}: {setup.title} "
            f"holds {needed:,} tokens of one request",
            "Give a larger pool, or shorter prompts with --prompt-tokens.",
        )


def _require_memory(options: BenchmarkOptions, num_sides: int) -> None:
    """Refuse more sides at a time than there is memory for: swapping would be measured."""
    weights = options.model_dir / WEIGHTS_FILE
    needed = num_sides * (weights.stat().st_size if weights.exists() else 0)
    free = psutil.virtual_memory().available
    if needed > free:
        raise ConfigError(
            f"{num_sides} engines that take turns hold {needed / 1e9:.1f} GB of weights together, "
            f"and {free / 1e9:.1f} GB of memory are free",
            "Let fewer take turns: --engine paged --engine genai",
        )
