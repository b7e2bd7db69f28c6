"""One policy, ready to cut the caches of a scorer to any budget."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.eviction.compressor import Compressor
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner, plan_cuts
from ov_kvcrush.runtime.eviction.interface import Eviction
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence


@dataclass(frozen=True)
class Cutter:
    """Cuts sequences as one configuration's policy does, to budgets that come with each cut.

    Attributes:
        eviction: the engine's own.
    """

    eviction: Eviction

    @classmethod
    def of(
        cls,
        config: KVCacheConfig,
        model: PagedModel,
        shares: SequenceOf[SequenceOf[float]],
        chunk: int,
    ) -> Cutter:
        """The policy of ``config``, which evicts; its own sizes of the budget do not matter.

        Args:
            config: the policy.
            model: compiled, with its cache.
            shares: of each KV head in the KV plan, by layer; empty for none.
            chunk: most tokens of one inference.

        Raises:
            ConfigError: sizes that are not whole pages, layer budgets that do not fit the model, or
                a gate is asked for and it has none.
        """
        config.require_page_multiples(PAGE_SIZE)
        config = config.for_model(model.has_gate, model.trusts_gate)
        budgets = CacheBudgets(config, model.cache_layers, shares)
        planner = CutPlanner(config, budgets, chunk)
        return cls(Compressor(model.layers, model.scales, model.memories, config, budgets, planner))

    def cut(self, sequence: Sequence, cache: KVCache, cut: Cut) -> None:
        """Make ``cut``, which is due now; nothing where ``sequence`` is within its budget.

        Raises:
            RuntimeError: the pool has no pages for what is moved.
        """
        sequence.planned_cuts = [cut]
        self.cut_if_due(sequence, cache)

    def cut_if_due(self, sequence: Sequence, cache: KVCache) -> None:
        """Make the next of the planned cuts if ``sequence`` stands there; errors as :meth:`cut`."""
        if not self.eviction.compress(sequence, cache):
            raise RuntimeError("the pool of a scorer is too small for a cut")


def cuts_while_reading(num_tokens: int, budget: int, prefill_budget: int, chunk: int) -> list[Cut]:
    """The cuts of a prompt of ``num_tokens`` that is cut after every ``chunk`` of them.

    Those are left out at which the cache is still within ``prefill_budget``; 0 is no limit.
    """
    cuts = plan_cuts(
        0, num_tokens, max_cache_size=budget, prefill_budget=prefill_budget, stretch=chunk
    )
    return [cut for cut in cuts if cut.num_cached > cut.budget or cut is cuts[-1]]
