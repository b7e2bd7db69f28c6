"""A request's beginning: the sequence it reads with, and the cache that is there already."""

from __future__ import annotations

from ov_kvcrush.errors import PromptError
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.eviction.interface import Eviction
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.scheduling.admission import Admission
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.prefixes import Prefixes
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.sequences.shared_beginning import common_prefix


class Intake:
    """Makes sequences of prompts, and plans their cuts.

    Args:
        layers: geometry of the model's.
        cache: where chats and prefixes are parked.
        planner: plans the cuts.
        eviction: makes them.
        prefixes: what others have read.
        admission: foresees what can never fit.
        has_gate: whether the model's gate scores what it reads.
    """

    def __init__(
        self,
        layers: tuple[LayerGeometry, ...],
        cache: KVCache,
        planner: CutPlanner,
        eviction: Eviction,
        prefixes: Prefixes,
        admission: Admission,
        has_gate: bool = False,
    ) -> None:
        self._layers = layers
        self._cache = cache
        self._planner = planner
        self._eviction = eviction
        self._prefixes = prefixes
        self._admission = admission
        self._has_gate = has_gate

    def new_sequence(self, tokens: list[int], owner: str = "") -> Sequence:
        """A sequence of ``tokens`` that holds nothing, with what its cuts will look at."""
        eviction = self._eviction
        return Sequence(
            list(tokens),
            self._layers,
            eviction.window_size or None,
            eviction.accumulates,
            owner,
            self._has_gate,
        )

    def plan(self, sequence: Sequence, num_tokens: int) -> None:
        """Plan the cuts of ``sequence`` up to the end of its prompt, the first ``num_tokens``."""
        self._planner.plan_prompt(sequence, num_tokens)

    def begin(
        self,
        prompt: list[int],
        session: Session | None,
        prefix: Session | None,
        owner: str,
        metrics: GenerationMetrics,
    ) -> Sequence:
        """The sequence that reads ``prompt``: its chat's, one behind ``prefix``, or a new one.

        Args:
            prompt: all of its tokens.
            session: chat it continues; its owner goes before ``owner``.
            prefix: what it is to begin with where the chat has nothing cached.
            owner: whose a sequence without a session is.
            metrics: are told why a chat's cache could not be continued.

        Raises:
            PromptError: it can never fit, and the chat's cache stays; or it does not begin with
                ``prefix``.
        """
        kept = None if session is None else self._cache.unpark(session)
        if kept is not None:
            with self._cache.released_on_failure(kept):
                if not _goes_on(self._cache, kept, prompt, metrics):
                    self._cache.release(kept)
                    kept = None
        elif session is not None:
            metrics.restarted, session.lost = session.lost, ""
        owner = owner if session is None else session.owner
        sequence = kept or self.new_sequence(prompt, owner)
        is_prefix = session is not None and session.is_prefix
        thorough = session is not None and session.thorough
        if thorough and kept is None:
            sequence.become_thorough()
        with self._cache.released_on_failure(sequence):
            if kept is None and prefix is not None:
                self._prefixes.begin_with(prefix, sequence)
            self._planner.plan_prompt(sequence, len(sequence.tokens), is_prefix, thorough)
            self._eviction.prepare(len(sequence.tokens))
            if self._admission.could_ever(sequence):
                return sequence
        error = self.too_long(sequence)
        if session is not None:
            sequence.planned_cuts = []
            self._cache.park(session, sequence)
        else:
            self._cache.release(sequence)
        raise error

    def too_long(self, sequence: Sequence) -> PromptError:
        """Why the prompt of ``sequence`` does not fit."""
        message = (
            f"a prompt of {len(sequence.tokens)} tokens does not fit the KV cache: "
            f"the pool holds {self._cache.max_tokens} tokens"
        )
        if pinned := self._cache.pinned_bytes:
            message += f", {pinned / self._cache.max_bytes:.0%} of it cached prefixes"
        return PromptError(message, "Shorten the prompt, or give a larger pool_size.")


def _goes_on(
    cache: KVCache, sequence: Sequence, prompt: list[int], metrics: GenerationMetrics
) -> bool:
    """Take a chat's ``sequence`` back to what it shares with ``prompt``, and give it the rest.

    False where it cannot be taken back so far: then ``metrics`` say why.
    """
    # The last prompt token is computed in any case: its logits are wanted.
    shared = common_prefix(sequence.tokens[: sequence.num_cached], prompt[:-1])
    if not shared or not sequence.can_rewind_to(shared):
        metrics.restarted = (
            f"the history differs from the cached one at token {shared}, "
            f"and the cache can be taken back to token {sequence.rewind_floor} only"
        )
        return False
    sequence.rewind_to(shared)
    cache.trim(sequence)
    sequence.tokens += prompt[shared:]
    sequence.planned_cuts = []
    sequence.num_reused = shared
    return True
