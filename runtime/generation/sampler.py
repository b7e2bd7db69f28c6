"""From a row of logits to the next token.

The meaning of every setting is openvino_genai's. Its order: minimum length, repetition, presence
and frequency penalty, what a grammar leaves; when sampling, then temperature, top-k, min-p and
top-p. Easily missed: presence and frequency penalties count generated tokens only and pull a logit
towards zero, so that a negative one rises; the repetition penalty counts the prompt too; the log
probability of a greedy token is 0 unless ``logprobs`` asks for it.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import ModelError
from ov_kvcrush.runtime.generation.progress import TopTokens

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig

    from ov_kvcrush.runtime.grammar.token_mask import TokenMask

Row = NDArray[np.float32]
Ids = NDArray[np.int64]

_BLOCK = 512


@dataclass(frozen=True)
class SampledToken:
    """A token and its natural log probability.

    The probability is the model's own (before penalties and filters) where ``logprobs`` asks for
    it; else that of the distribution it was drawn from, and 1 for a greedy token.

    Attributes:
        token: that comes next.
        log_prob: of it.
        top: as many as ``logprobs`` says of the tokens the model itself finds likeliest, with their
            log probabilities, the likeliest first.
    """

    token: int
    log_prob: float
    top: TopTokens = ()


class Sampler:
    """Chooses the tokens of one sequence, and remembers them for the penalties.

    Args:
        config: resolved settings; read once, here.
        prompt_ids: tokens of the whole prompt, each below the vocabulary size.
        index: which of the ``num_return_sequences``; sequences of one seed differ by it.
        mask: of the sequence alone: what its grammar leaves; None where it may be any text.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt_ids: Sequence[int],
        index: int = 0,
        mask: TokenMask | None = None,
    ) -> None:
        self._generated: Counter[int] = Counter()
        self._edits = _edits(config, prompt_ids, self._generated)
        self._mask = mask
        if mask is not None:
            self._edits.append(mask.apply)
        self._choose: Callable[[Row], SampledToken] = (
            Multinomial(config, index) if config.do_sample else choose_greedy
        )
        self._num_top = config.logprobs

    def sample(self, logits: Row) -> SampledToken:
        """The next token after ``logits`` ``[vocab]``, which are not changed.

        Raises:
            ModelError: no token can be chosen: NaN, infinity, or nothing above -infinity.
            GrammarFailedError: the grammar cannot go on.
        """
        row = logits.copy() if self._edits else logits
        for edit in self._edits:
            edit(row)
        sampled = self._choose(row)
        if self._num_top:
            sampled = _with_model_log_probs(sampled.token, logits, self._num_top)
        self._generated[sampled.token] += 1
        if self._mask is not None:
            self._mask.take(sampled.token)
        return sampled

    @property
    def has_ended(self) -> bool:
        """Whether nothing can follow, as the grammar says where no token does."""
        return self._mask is not None and self._mask.has_ended


def choose_greedy(row: Row) -> SampledToken:
    """The highest logit's token, the first of equals."""
    token = int(row.argmax())
    _require_finite(row[token])
    return SampledToken(token, 0.0)


class Multinomial:
    """Draws a token from the filtered distribution of a row of logits."""

    def __init__(self, config: GenerationConfig, index: int = 0) -> None:
        self._random = np.random.default_rng((config.rng_seed, index))
        self._temperature = config.temperature
        self._filters = _filters(config)

    def __call__(self, row: Row) -> SampledToken:
        """Draw one token; its log probability is that of the filtered distribution."""
        ids, scores = self.candidates(row)
        drawn, total = draw(np.exp(scores), self._random.random())
        return SampledToken(int(ids[drawn]), float(scores[drawn]) - math.log(total))

    def candidates(self, row: Row) -> tuple[Ids, Row]:
        """Tokens that can be drawn from ``row`` ``[vocab]``, and their scores, 0 the highest.

        Probabilities are proportional to ``exp(score)``.
        """
        highest = row.max()
        _require_finite(highest)
        # With the highest at 0, a tiny temperature can only send the others to -infinity.
        with np.errstate(over="ignore"):
            scores = (row - highest) / self._temperature
        ids = _all_ids(len(row))
        for kept_by in self._filters:
            kept = kept_by(scores)
            ids, scores = ids[kept], scores[kept]
        return ids, scores


def _edits(
    config: GenerationConfig, prompt_ids: Sequence[int], generated: Counter[int]
) -> list[Callable[[Row], None]]:
    """What changes a row in place before a token is chosen, in order; ``generated`` is shared."""
    edits: list[Callable[[Row], None]] = []
    if config.min_new_tokens > 0:
        edits.append(_suppress(config.stop_token_ids, config.min_new_tokens, generated))
    if config.repetition_penalty != 1.0:
        edits.append(_penalize_repetition(config.repetition_penalty, prompt_ids, generated))
    if config.presence_penalty != 0.0:
        edits.append(_penalize_presence(config.presence_penalty, generated))
    if config.frequency_penalty != 0.0:
        edits.append(_penalize_frequency(config.frequency_penalty, generated))
    return edits


def _suppress(
    stop_ids: set[int], min_new_tokens: int, generated: Counter[int]
) -> Callable[[Row], None]:
    stop = np.fromiter(stop_ids, np.int64)

    def edit(row: Row) -> None:
        if generated.total() < min_new_tokens:
            row[stop[stop < len(row)]] = -np.inf

    return edit


def _penalize_repetition(
    penalty: float, prompt_ids: Sequence[int], generated: Counter[int]
) -> Callable[[Row], None]:
    prompt = np.unique(np.asarray(prompt_ids, dtype=np.int64))

    def edit(row: Row) -> None:
        # A token of both is written twice, with one value: it is penalized once.
        ids = np.concatenate([prompt, np.fromiter(generated.keys(), np.int64)])
        values = row[ids]
        row[ids] = np.where(values >= 0, values / penalty, values * penalty)

    return edit


def _penalize_presence(penalty: float, generated: Counter[int]) -> Callable[[Row], None]:
    def edit(row: Row) -> None:
        _pull_towards_zero(row, np.fromiter(generated.keys(), np.int64), penalty)

    return edit


def _penalize_frequency(penalty: float, generated: Counter[int]) -> Callable[[Row], None]:
    def edit(row: Row) -> None:
        counts = np.fromiter(generated.values(), np.int64)
        _pull_towards_zero(row, np.fromiter(generated.keys(), np.int64), penalty * counts)

    return edit


def _pull_towards_zero(row: Row, ids: Ids, amount: float | NDArray[np.floating]) -> None:
    values = row[ids]
    row[ids] = np.where(values >= 0, values - amount, values + amount)


def _filters(config: GenerationConfig) -> list[Callable[[Row], Ids]]:
    """What narrows the candidates, in order: scores (0 the highest) → indices of those kept."""
    filters: list[Callable[[Row], Ids]] = []
    if 0 < config.top_k < 2**63:  # 0 and the default, the highest size_t, are off
        filters.append(_top_k(config.top_k))
    # Both measure the same probabilities, so that either order keeps the same tokens; but top-p
    # has to see all of them.
    if config.top_p < 1.0:
        filters.append(_top_p(config.top_p))
    if config.min_p > 0.0:
        filters.append(_min_p(config.min_p))
    return filters


def _top_k(k: int) -> Callable[[Row], Ids]:
    def kept(scores: Row) -> Ids:
        last = max(len(scores) - k, 0)
        kept = np.flatnonzero(scores >= np.partition(scores, last)[last])
        # Of equals at the end, the first ones: exactly k stay, and k = 1 is greedy.
        return kept[np.argsort(-scores[kept], kind="stable")[:k]]

    return kept


def _min_p(min_p: float) -> Callable[[Row], Ids]:
    """Min-p sampling (Nguyen et al., arXiv 2407.01082): at least ``min_p`` of the likeliest."""
    lowest = math.log(min_p)

    def kept(scores: Row) -> Ids:
        return np.flatnonzero(scores >= lowest)

    return kept


def _top_p(top_p: float) -> Callable[[Row], Ids]:
    """Nucleus sampling (Holtzman et al., arXiv 1904.09751): the likeliest that exceed ``top_p``."""

    def kept(scores: Row) -> Ids:
        weights = np.exp(scores)
        total = float(weights.sum())
        # All tokens below (1 - p) / n together have less than 1 - p: they cannot be needed, and
        # only the few others have to be sorted.
        heavy = np.flatnonzero(weights > total * (1.0 - top_p) / len(weights))
        order = heavy[np.argsort(-weights[heavy])]
        mass = weights[order].astype(np.float64).cumsum()
        return order[: mass.searchsorted(top_p * total, side="right") + 1]

    return kept


@functools.cache
def _all_ids(vocab_size: int) -> Ids:
    # Kept, because allocating a megabyte for each token costs more than all the arithmetic.
    ids = np.arange(vocab_size)
    ids.flags.writeable = False
    return ids


def draw(weights: Row, uniform: float) -> tuple[int, float]:
    """Index that ``uniform`` in [0, 1) draws in proportion to ``weights``, and their sum.

    First its block, then its place in it: cumulating a whole vocabulary takes ten times as long.
    """
    starts = np.arange(0, len(weights), _BLOCK)
    mass = np.concatenate([[0.0], np.add.reduceat(weights, starts).cumsum(dtype=np.float64)])
    target = uniform * mass[-1]
    block = mass.searchsorted(target, side="right") - 1
    start = starts[block]
    inside = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    # Rounding must not lead past the block's last token of any weight.
    rest = min(target - mass[block], np.nextafter(inside[-1], 0.0))
    return int(start + inside.searchsorted(rest, side="right")), float(mass[-1])


def _with_model_log_probs(token: int, logits: Row, num_top: int) -> SampledToken:
    normalizer = _log_sum_exp(logits)
    top = _top_k(num_top)(logits)
    log_probs = logits[top].astype(np.float64) - normalizer
    return SampledToken(
        token,
        float(logits[token]) - normalizer,
        tuple(zip(top.tolist(), log_probs.tolist(), strict=True)),
    )


def _log_sum_exp(row: Row) -> float:
    highest = float(row.max())
    return highest + math.log(float(np.exp(row - highest).sum()))


def _require_finite(highest: np.float32) -> None:
    # NaN anywhere makes itself the maximum, so the highest logit tells about the whole row.
    if not math.isfinite(highest):
        raise ModelError(
            f"the model's highest logit is {highest}: no next token can be chosen",
            "Run in INFERENCE_PRECISION_HINT=f32, or with another KV cache precision; "
            "if that does not help, export the model again.",
        )
