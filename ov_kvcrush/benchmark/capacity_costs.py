"""What a model costs, read from the JSON of benchmarks: lines through the times of single requests.

Only what was measured goes in; where one length was measured, nothing is known of growth.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ov_kvcrush.benchmark.capacity import Costs, CutCosts, Machine
from ov_kvcrush.benchmark.contestants import OURS
from ov_kvcrush.benchmark.step_clock import DECODING, REST, SAMPLING, SCHEDULING
from ov_kvcrush.errors import ConfigError

_SERIAL = (SAMPLING, SCHEDULING, REST)


@dataclass(frozen=True)
class Sample:
    """What one engine took for one workload.

    Attributes:
        num_requests: that arrived together.
        prompt_tokens: of each.
        answer_tokens: of each.
        budget: of the workload's total; 0 where nothing is evicted.
        ttft: seconds.
        tpot: seconds.
        seconds: to the last token of all.
        kv_bytes: of one sequence, at its end.
        peak_bytes: of one sequence, at most.
        resident_bytes: of the process, beside its KV cache.
        serial_seconds: of what one thread does, while each request gets a token.
        decoding_seconds: of inference in a step that reads nothing; None where that is not told.
    """

    num_requests: int
    prompt_tokens: int
    answer_tokens: int
    budget: int
    ttft: float
    tpot: float
    seconds: float
    kv_bytes: float
    peak_bytes: float
    resident_bytes: float
    serial_seconds: float
    decoding_seconds: float | None


def read_samples(report: Mapping[str, Any], engine: str = OURS) -> list[Sample]:
    """All workloads of a benchmark that ``engine`` did.

    Args:
        report: what ``ov-kvcrush bench --json`` or ``--output`` gives.
        engine: as the benchmark calls it.

    Raises:
        ConfigError: it is not such a report.
    """
    with _read_as_a_report():
        return [
            _sample(cell, side)
            for cell in report["cells"]
            for side in cell["sides"]
            if side["engine"] == engine
            and side["tpot"]
            # A shared document is read once, and its pages count for everybody.
            and not cell["workload"].get("shared_tokens")
        ]


@contextmanager
def _read_as_a_report() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"this is not the report of a benchmark: {error!r}",
            "Make one with: ov-kvcrush bench MODEL_DIR --output FILE.json",
        ) from error


def _sample(cell: Mapping[str, Any], side: Mapping[str, Any]) -> Sample:
    workload = cell["workload"]
    together, answer = workload["num_requests"], workload["answer_tokens"]
    parts = side["parts"]
    seconds = 60 * together / side["requests_per_minute"]
    serial = sum(parts.get(name, 0.0) for name in _SERIAL) * seconds / answer
    decoding = parts.get(DECODING)
    return Sample(
        num_requests=together,
        prompt_tokens=workload["prompt_tokens"],
        answer_tokens=answer,
        budget=cell["max_cache_size"],
        ttft=side["ttft"],
        tpot=side["tpot"],
        seconds=seconds,
        kv_bytes=side["kv_bytes"] / together,
        peak_bytes=side["kv_bytes_peak"] / together,
        resident_bytes=side["resident_bytes"] - side["kv_bytes_peak"],
        serial_seconds=serial,
        decoding_seconds=None if decoding is None else decoding * seconds / max(1, answer - 1),
    )


def costs_of(
    reports: Sequence[Mapping[str, Any]], engine: str = OURS, budget: int | None = None
) -> Costs:
    """Costs of a model on the machine of ``reports``.

    From its requests that came alone, but for what each further sequence adds to a step.

    Args:
        reports: of one model on one machine; together they need a prompt of which nothing is
            evicted, better two of different length, and the same with a budget.
        engine: as the benchmarks call it.
        budget: total of those that are cut; None is the smallest there is.

    Raises:
        ConfigError: they are of several models, or lack what is needed.
    """
    first = reports[0]
    with _read_as_a_report():
        sizes = {report["roofline"]["weight_bytes"] for report in reports}
        machine = Machine(
            cores=first["num_threads"],
            # The most that was seen: a neighbour can only lower it.
            bandwidth=max(report["roofline"]["bandwidth"] for report in reports),
            memory_bytes=first["machine"]["memory_bytes"],
        )
        threads = {report["num_threads"] for report in reports}
    if len(sizes) != 1 or len(threads) != 1:
        what = "models of several sizes" if len(sizes) != 1 else "several numbers of threads"
        raise ConfigError(
            f"the reports are of {what}", "Give those of one model on one machine at a time."
        )
    samples = [sample for report in reports for sample in read_samples(report, engine)]
    alone = [sample for sample in samples if sample.num_requests == 1]
    full = sorted((s for s in alone if not s.budget), key=lambda s: s.prompt_tokens)
    if not full:
        raise ConfigError(
            f"no request of {engine} came alone with nothing evicted",
            "Measure one with: ov-kvcrush bench MODEL_DIR --max-cache-size 0 --max-cache-size 1024",
        )
    # Of a mean before it: half of the tokens of a prompt that is read at once.
    read, growth = _line(
        [s.prompt_tokens / 2 for s in full], [s.ttft / s.prompt_tokens for s in full]
    )
    longest = full[-1]
    cut = _cut([s for s in alone if s.budget], budget)
    decoded = [*full, *([s for s in alone if cut and s.budget == cut.budget])]
    step, kv = _line(
        [s.kv_bytes for s in decoded], [s.tpot for s in decoded], 1 / machine.bandwidth
    )
    shortest = [s for s in samples if not s.budget and s.prompt_tokens == full[0].prompt_tokens]
    serial, serial_more = _serial_seconds(shortest)
    products = _product_seconds(shortest, kv)
    return Costs(
        machine=machine,
        weight_bytes=sizes.pop(),
        resident_bytes=max(sample.resident_bytes for sample in alone),
        step_seconds=step,
        serial_seconds=min(step, serial),
        sequence_serial_seconds=serial_more,
        product_seconds=read if products is None else products,
        kv_seconds=kv,
        kv_bytes_per_token=longest.kv_bytes / (longest.prompt_tokens + longest.answer_tokens - 1),
        read_seconds=read,
        read_growth=growth,
        cut=cut,
    )


def _serial_seconds(samples: Sequence[Sample]) -> tuple[float, float]:
    """Of a step of one sequence, and of each further one, by the shortest prompts.

    The less was read, the less of it belongs to reading. Where no requests came together, all of it
    is taken to be each sequence's own.
    """
    alone = statistics.fmean(s.serial_seconds for s in samples if s.num_requests == 1)
    if len({s.num_requests for s in samples}) == 1:
        return alone, alone
    _, more = _line([s.num_requests for s in samples], [s.serial_seconds for s in samples])
    return alone, more


def _product_seconds(samples: Sequence[Sample], kv_seconds: float) -> float | None:
    """Of each further sequence in a step, beside its cache; None where it was not measured."""
    told = [
        (s.num_requests, s.decoding_seconds - kv_seconds * s.num_requests * s.kv_bytes)
        for s in samples
        if s.decoding_seconds is not None
    ]
    if len({number for number, _ in told}) < 2:
        return None
    numbers, seconds = zip(*told, strict=True)
    return _line(numbers, seconds)[1]


def _cut(samples: Sequence[Sample], budget: int | None) -> CutCosts | None:
    if not samples:
        return None
    wanted = budget or min(sample.budget for sample in samples)
    chosen = [sample for sample in samples if sample.budget == wanted]
    if not chosen:
        known = ", ".join(str(size) for size in sorted({sample.budget for sample in samples}))
        raise ConfigError(f"no request was cut to {wanted} tokens", f"Measured: {known}.")
    longest = max(chosen, key=lambda sample: sample.prompt_tokens)
    return CutCosts(
        budget=wanted,
        kept_bytes=longest.kv_bytes,
        peak_bytes=longest.peak_bytes,
        read_seconds=longest.ttft / longest.prompt_tokens,
    )


def _line(
    places: Sequence[float], values: Sequence[float], least: float = 0.0
) -> tuple[float, float]:
    """Value at 0 and slope, which is ``least`` where noise would make it less, of the best line."""
    place, value = statistics.fmean(places), statistics.fmean(values)
    slope = least
    if len(set(places)) > 1:
        slope = max(least, statistics.linear_regression(places, values).slope)
    if value <= slope * place:
        slope = least
    return value - slope * place, slope
