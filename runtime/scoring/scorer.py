"""Reads given tokens: the same prompt once, and from there again and again over cut caches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import SAME
from ov_kvcrush.runtime.eviction.interface import Eviction, NoEviction
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.paged.setup import set_up
from ov_kvcrush.runtime.paged.storing import store
from ov_kvcrush.runtime.scoring.cutter import Cutter
from ov_kvcrush.runtime.sequences.sequence import Chunk, Cut, Sequence

Logits = NDArray[np.float32]


class Scorer:
    """A model compiled once for all policies, and the caches it reads from.

    What a sequence holds is forked before anything is cut, so whatever is done with one fork
    changes no other: results do not depend on what else is measured, or on its order.

    Args:
        folder: exported model.
        device: name of the device.
        config: precisions of the cache and ``pool_size``; it evicts nothing.
        policies: what caches are cut with, by name; they evict.
        properties: of the plugin.
        chunk: tokens of a prompt that are read at once.
        decode_precision: as ``LLMPipeline`` has it.

    Attributes:
        chunk: as above.
        cutters: one for each of ``policies``.
        cache: pages of the sequences.

    Raises:
        ModelError, ConfigError, DeviceError, UnsupportedError: as :class:`Engine`.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        config: KVCacheConfig,
        policies: Mapping[str, KVCacheConfig],
        properties: Mapping[str, Any],
        chunk: int,
        decode_precision: str = SAME,
    ) -> None:
        limits = EngineLimits(max_num_batched_tokens=chunk)
        parts = set_up(
            folder, device, config, properties, limits, decode_precision, list(policies.values())
        )
        plan = KVPlan.load(folder)
        shares = plan.head_shares if plan else ()
        self.chunk = chunk
        self.cache = parts.cache
        self._model = parts.model
        self.cutters = {
            name: Cutter.of(policy, parts.model, shares, chunk) for name, policy in policies.items()
        }
        evictions = [cutter.eviction for cutter in self.cutters.values()]
        # Which of those that accumulate does it makes no difference: they differ in what they keep.
        self._accumulating: Eviction = next((e for e in evictions if e.accumulates), NoEviction())
        self._window_size = max((e.window_size for e in evictions), default=0)

    @contextmanager
    def begun(self, tokens: SequenceOf[int]) -> Iterator[Sequence]:
        """A sequence of ``tokens`` that has read nothing; it gives its pages back afterwards.

        It keeps what any of the policies will look at.
        """
        sequence = Sequence(
            list(tokens),
            self._model.layers,
            self._window_size or None,
            self._accumulating.accumulates,
            has_gate=self._model.has_gate,
        )
        try:
            yield sequence
        finally:
            self.cache.release(sequence)

    @contextmanager
    def forked(
        self, source: Sequence, tokens: SequenceOf[int], cutter: Cutter | None = None
    ) -> Iterator[Sequence]:
        """A sequence of ``tokens`` with the cache of ``source``, whose tokens they begin with.

        It gives its pages back afterwards.

        Args:
            source: not changed.
            tokens: what has been read and what is to be read.
            cutter: keeps what this one will look at and no more; None is all.
        """
        target = source.twin(list(tokens))
        if cutter is not None:
            eviction = cutter.eviction
            size = eviction.window_size or None
            target = Sequence(
                list(tokens),
                self._model.layers,
                size,
                eviction.accumulates,
                has_gate=self._model.has_gate,
            )
        self.cache.fork(source, target)
        try:
            yield target
        finally:
            self.cache.release(target)

    def kept_by_head(self, sequence: Sequence) -> tuple[tuple[int, ...], ...]:
        """Tokens that each KV head of ``sequence`` holds, by layer of the model."""
        held: dict[int, dict[int, int]] = {}
        for layer, own in zip(self._model.cache_layers, sequence.layers, strict=True):
            held.setdefault(layer.layer, {}).update(dict.fromkeys(layer.heads, own.length))
        return tuple(tuple(heads[head] for head in sorted(heads)) for heads in held.values())

    def read(self, sequence: Sequence, end: int) -> Logits:
        """Read the tokens up to ``end``, nothing cut: logits ``[vocab]`` behind the last, a copy.

        In chunks that begin at multiples of ``chunk``, whatever was read before; an empty array
        where that is all already.
        """
        logits = np.empty((1, 0), np.float32)
        while sequence.num_cached < end:
            boundary = (sequence.num_cached // self.chunk + 1) * self.chunk
            count = min(end, boundary) - sequence.num_cached
            logits = self._infer([(sequence, count, 1)])
        return np.array(logits[-1])

    def read_cutting(self, sequence: Sequence, cutter: Cutter, cuts: SequenceOf[Cut]) -> Logits:
        """Read all tokens and make ``cuts``, the last one at the end: logits ``[vocab]`` before it.

        The first of the cuts may be due already. An empty array where nothing was left to read.
        """
        sequence.planned_cuts = list(cuts)
        logits = np.empty((1, 0), np.float32)
        cutter.cut_if_due(sequence, self.cache)
        while sequence.num_uncached:
            count = min(sequence.next_stretch, self.chunk)
            logits = self._infer([(sequence, count, 1)])
            cutter.cut_if_due(sequence, self.cache)
        return np.array(logits[-1])

    def logits(self, *wanted: tuple[Sequence, int]) -> list[Logits]:
        """Read what each sequence has not read yet, all in one inference.

        Args:
            wanted: sequences, each with how many of its last tokens' logits are wanted, of those
                that are read now.

        Returns:
            Of each ``[count, vocab]``, views that the next inference overwrites.
        """
        reads = [(s, s.num_uncached, count) for s, count in wanted if s.num_uncached]
        logits = self._infer(reads) if reads else np.empty((0, self._model.vocab_size), np.float32)
        ends = np.cumsum([count for _, count in wanted])
        return np.split(logits, ends[:-1])

    def read_together(self, sequences: SequenceOf[Sequence]) -> list[int]:
        """Read all that each has not read yet: the likeliest token behind each, in their order.

        Args:
            sequences: each has something to read. At most ``chunk`` tokens, of as many sequences as
                it takes, are read in one inference.
        """
        likeliest, begin = [0] * len(sequences), 0
        while begin < len(sequences):
            reads, room, last = [], self.chunk, begin
            while room and last < len(sequences):
                sequence = sequences[last]
                count = min(sequence.num_uncached, room)
                reads.append((sequence, count, 1))
                room -= count
                last += 1
            logits = self._infer(reads)
            for number, row in enumerate(logits, start=begin):
                likeliest[number] = int(row.argmax())
            # One that was read in part goes on in the next inference.
            begin = last - bool(sequences[last - 1].num_uncached)
        return likeliest

    def answer_together(
        self, asked: SequenceOf[tuple[Sequence, int, int]], ends: Collection[int]
    ) -> list[list[int]]:
        """What the model would write behind each sequence, all of them in one inference a token.

        Who has ended drops out of it. Up to rounding, answers are as those of each alone.

        Args:
            asked: sequences that have read all of their tokens, and grow; each with the first token
                of its answer, which the logits behind them tell, and the most tokens of it, 1 at
                least.
            ends: tokens that end an answer; the one that does is among the result.
        """
        answers = [[first] for _, first, _ in asked]
        while going := [
            (sequence, answer)
            for (sequence, _, most), answer in zip(asked, answers, strict=True)
            if len(answer) < most and answer[-1] not in ends
        ]:
            for sequence, answer in going:
                sequence.tokens.append(answer[-1])
            told = self.logits(*((sequence, 1) for sequence, _ in going))
            for (_, answer), logits in zip(going, told, strict=True):
                answer.append(int(logits[-1].argmax()))
        return answers

    def continue_greedily(
        self, sequence: Sequence, first: int, count: int, ends: Collection[int]
    ) -> list[int]:
        """The same for one: at most ``count`` tokens, the first of them ``first``."""
        (answer,) = self.answer_together([(sequence, first, count)], ends)
        return answer

    def _infer(self, reads: SequenceOf[tuple[Sequence, int, int]]) -> Logits:
        """Read so many tokens of each sequence; logits ``[rows, vocab]`` of so many of the last."""
        chunks, rows, end = [], [], 0
        for sequence, count, num_rows in reads:
            if not self.cache.extend(sequence, count):
                raise RuntimeError("the pool of a scorer is too small for its prompts")
            chunks.append(Chunk.of(sequence, count))
            end += count
            rows.append(np.arange(end - num_rows, end, dtype=np.int32))
        batch = replace(build_batch(chunks), sampled_rows=np.concatenate(rows))
        told = self._model.forward(batch)
        store(batch, told, self._accumulating)
        return told.logits
