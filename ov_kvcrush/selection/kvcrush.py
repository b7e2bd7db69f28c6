"""KVCrush: the slots of a layer's cache that stay, important tokens and representatives.

"KVCrush: Key value cache size-reduction using similarity in head-behaviour" (arXiv 2503.00022).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.selection.cut_budget import divide_budget
from ov_kvcrush.selection.importance import ImportanceMethod
from ov_kvcrush.selection.observation import Floats, Observation
from ov_kvcrush.selection.ordering import highest
from ov_kvcrush.selection.representatives import (
    REPRESENTATIVE_RULES,
    Candidates,
    RepresentativeRule,
)
from ov_kvcrush.selection.signature import (
    ANCHORS,
    SIGNATURE_HEADS,
    hamming_distances,
    make_anchor,
    signature_bits,
)


@dataclass(frozen=True)
class Selector:
    """The policy of one cut: chooses the slots of a layer's cache that stay. Pure; share it freely.

    Attributes:
        importance: scores the tokens.
        start_size: first tokens (attention sinks), always kept.
        recent_size: last tokens, always kept.
        representatives: name in ``REPRESENTATIVE_RULES``.
        representative_share: part of the middle budget that goes to representatives, 0 to 1.
        anchor: name in ``ANCHORS``.
        signature_heads: name in ``SIGNATURE_HEADS``: a signature bit per KV or per query head.
        signature_fraction: part of the middle tokens for which a head's bit is one.
        seed: for the ``random`` anchor.
        page_size: tokens that are kept or evicted together; 1 is token granularity. Above 1, the
            sizes and the budget are multiples of it.

    Raises:
        ConfigError: a name is unknown or a number out of range.
    """

    importance: ImportanceMethod
    start_size: int
    recent_size: int
    representatives: str = "rank"
    representative_share: float = 0.25
    anchor: str = "mean"
    signature_heads: str = "kv"
    signature_fraction: float = 0.5
    seed: int = 0
    page_size: int = 1

    def __post_init__(self) -> None:
        """Refuse unknown names and numbers out of range."""
        for setting, known in (
            ("representatives", REPRESENTATIVE_RULES),
            ("anchor", ANCHORS),
            ("signature_heads", SIGNATURE_HEADS),
        ):
            name = getattr(self, setting)
            if name not in known:
                raise ConfigError(f"{setting} {name!r} is not known", did_you_mean(name, known))
        for setting, least in (
            ("start_size", 0),
            ("recent_size", 0),
            ("seed", 0),
            ("page_size", 1),
        ):
            if getattr(self, setting) < least:
                raise ConfigError(f"{setting} is {getattr(self, setting)}, below {least}")
        for setting in ("representative_share", "signature_fraction"):
            if not 0 <= getattr(self, setting) <= 1:
                raise ConfigError(f"{setting} is {getattr(self, setting)}, outside 0 to 1")

    @property
    def num_window_queries(self) -> int:
        """The last queries whose attention ``select`` looks at; 0 for none."""
        return self.importance.num_window_queries if self._scores else 0

    @property
    def needs_accumulation(self) -> bool:
        """Whether ``select`` looks at the observation's ``accumulated_attention``."""
        return self._scores and self.importance.needs_accumulation

    @property
    def needs_distinctiveness(self) -> bool:
        """Whether ``select`` looks at the observation's ``distinctiveness``."""
        by_rule = self._rule.needs_distinctiveness and self.representative_share > 0
        return by_rule or (self._scores and self.importance.needs_distinctiveness)

    @property
    def needs_gate(self) -> bool:
        """Whether ``select`` looks at the observation's ``gate``."""
        return self._rule.needs_gate and self.representative_share > 0

    @property
    def _rule(self) -> RepresentativeRule:
        return REPRESENTATIVE_RULES[self.representatives]

    @property
    def _scores(self) -> bool:
        """Whether importance has a say: not where the rule alone chooses and needs none."""
        return self.representative_share < 1 or self._rule.needs_importance

    def select(self, observation: Observation, max_cache_size: int) -> NDArray[np.int32]:
        """The slots each KV head keeps: [H, K], strictly ascending in a row.

        K is min(max_cache_size, S) at token granularity. Above it whole pages are kept, aligned
        at multiples of ``page_size`` slots, and K may be up to ``page_size - 1`` less.

        Args:
            observation: what was seen of the S tokens in the cache; not changed.
            max_cache_size: tokens kept of each head, with start, recent and representatives.

        Raises:
            ConfigError: ``max_cache_size`` cannot hold the start and recent areas, or something is
                needed that was not measured.
        """
        num_heads, num_slots = observation.positions.shape
        if max_cache_size >= num_slots:
            return np.tile(np.arange(num_slots, dtype=np.int32), (num_heads, 1))
        budget = divide_budget(
            num_slots,
            max_cache_size,
            start_size=self.start_size,
            recent_size=self.recent_size,
            representative_share=self.representative_share,
            page_size=self.page_size,
        )
        middle = observation.slots(budget.middle_begin, budget.middle_end)
        if self._scores:
            importance = self._by_page(self.importance.score(middle))
        else:
            num_pages = (budget.middle_end - budget.middle_begin) // self.page_size
            importance = np.zeros((num_heads, num_pages), dtype=np.float32)
        chosen = highest(importance, budget.important)
        if budget.representatives:
            candidates = Candidates(
                importance=importance,
                taken=chosen,
                distances=partial(self._distances, middle),
                distinctiveness=lambda: self._by_page(middle.need("distinctiveness")),
                gate=lambda: self._best_of_page(middle.need("gate")),
                seed=self.seed,
            )
            chosen = chosen | self._rule.choose(candidates, budget.representatives)
        kept = np.ones((num_heads, num_slots), dtype=np.bool_)
        kept_middle = kept[:, budget.middle_begin : budget.middle_end]
        # Splitting the last axis gives a view: this writes into ``kept``.
        kept_middle.reshape(*chosen.shape, self.page_size)[...] = chosen[:, :, None]
        slots = np.flatnonzero(kept).reshape(num_heads, -1)
        slots -= num_slots * np.arange(num_heads)[:, None]  # a remainder takes longer
        return slots.astype(np.int32)

    def _by_page(self, values: Floats) -> Floats:
        """Sums over pages: [H, n] values of tokens to [H, n / page_size]."""
        if self.page_size == 1:
            return values  # sums of one each take as long as all the rest
        pages = values.reshape(len(values), -1, self.page_size)
        return np.asarray(pages.sum(axis=2), dtype=np.float32)

    def _best_of_page(self, values: Floats) -> Floats:
        """The highest of each page: logarithms are not summed up."""
        if self.page_size == 1:
            return values
        pages = values.reshape(len(values), -1, self.page_size)
        return np.asarray(pages.max(axis=2), dtype=np.float32)

    def _distances(self, middle: Observation) -> NDArray[np.int32]:
        scores = self.importance.score(SIGNATURE_HEADS[self.signature_heads](middle))
        bits = signature_bits(scores, self.signature_fraction, self.page_size)
        page_numbers = middle.positions[:, :: self.page_size] // self.page_size
        anchor = make_anchor(self.anchor, bits, page_numbers, self.seed)
        return hamming_distances(bits, page_numbers, anchor)
