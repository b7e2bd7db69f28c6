"""How the tokens of a budget are shared out between layers: the total stays, the shares differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import numpy as np

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.selection.observation import Floats

LAYER_BUDGETS = ("auto", "uniform", "pyramid", "adaptive", "plan")

# PyramidKV's steepness: the last layer gets 1/20 of an even share, the first the rest of twice it.
_PYRAMID_BETA = 20
# No layer is starved by a measurement: so much of an even share it gets in any case.
_LEAST_SHARE = 0.1


class LayerShares(ABC):
    """Shares out the tokens between start and recent area; those two stay whole in every layer.

    Attributes:
        needs_attention: whether the shares are measured at each cut.
    """

    needs_attention: ClassVar[bool] = False

    @abstractmethod
    def shares(self, attention: Sequence[Floats] | None, recent_size: int) -> list[float]:
        """The layers' shares, 1 on average.

        Args:
            attention: by layer [Hq, S] attention of the last w queries, summed over them; only
                where ``needs_attention``.
            recent_size: the last tokens, which every query sees anyway.
        """


@dataclass(frozen=True)
class FixedShares(LayerShares):
    """The same shares at every cut.

    Attributes:
        values: by layer, 1 on average.
    """

    values: tuple[float, ...]

    def shares(self, attention: Sequence[Floats] | None, recent_size: int) -> list[float]:
        """``values``."""
        return list(self.values)


@dataclass(frozen=True)
class AdaptiveShares(LayerShares):
    """More to the layers that look away: by the attention their last queries give to older tokens.

    A layer whose queries see their neighbours alone loses nothing by a small cache. The share goes
    with the square of the attention that leaves the recent area: docs/selection.md has the other
    exponents and measures that were tried.
    """

    needs_attention: ClassVar[bool] = True

    def shares(self, attention: Sequence[Floats] | None, recent_size: int) -> list[float]:
        """Measured anew at each cut."""
        away = [_looks_away(layer, recent_size) ** 2 for layer in attention or ()]
        return with_least_share(away)


def make_layer_shares(
    setting: str | tuple[float, ...],
    num_layers: int,
    *,
    preferred: str = "",
    planned: Sequence[float] = (),
) -> LayerShares:
    """The layer budgets that ``setting`` names.

    Args:
        setting: name in ``LAYER_BUDGETS``, or a number for each layer, in any unit.
        num_layers: layers of the model.
        preferred: what ``auto`` means to the importance method, if anything.
        planned: the KV plan's shares, empty where it has none; ``auto`` takes them before it falls
            back to ``uniform``.

    Raises:
        ConfigError: unknown name, a list that does not fit the model, or no shares in the plan.
    """
    if isinstance(setting, tuple):
        if len(setting) != num_layers:
            raise ConfigError(
                f"layer_budgets lists {len(setting)} layers, and the model has {num_layers}",
                "Give one number for each layer.",
            )
        return FixedShares(normalized(setting))
    setting = resolved_budgets(setting, preferred, bool(planned))
    if setting == "adaptive":
        return AdaptiveShares()
    if setting == "pyramid":
        return FixedShares(pyramid_shares(num_layers))
    if setting == "uniform":
        return FixedShares((1.0,) * num_layers)
    if setting != "plan":
        raise ConfigError(
            f"layer_budgets {setting!r} is not known", did_you_mean(setting, LAYER_BUDGETS)
        )
    if not planned:
        raise ConfigError(
            "layer_budgets 'plan' needs a KV plan with layer shares, and the model has none",
            "Export the model again with ov-kvcrush export, or choose uniform or adaptive.",
        )
    return FixedShares(normalized(tuple(planned)))


def resolved_budgets(setting: str, preferred: str, is_planned: bool) -> str:
    """What ``setting`` means: ``auto`` is what the importance method prefers, then the plan's.

    Args:
        setting: name in ``LAYER_BUDGETS``.
        preferred: by the importance method; empty for none.
        is_planned: whether the KV plan has shares.
    """
    if setting != "auto":
        return setting
    return preferred or ("plan" if is_planned else "uniform")


def divide_between_layers(
    mean: int,
    shares: Sequence[float],
    held: Sequence[int],
    heads: Sequence[int] = (),
    *,
    start_size: int,
    recent_size: int,
    unit: int = 1,
) -> list[int]:
    """Tokens each layer may keep: ``mean`` on average, or all where they hold fewer.

    ``start_size`` and ``recent_size`` are in every layer's budget; what is between them is divided
    by ``shares``. No layer gets more than it holds: what one cannot use goes to the others, so that
    the total is the same whatever the shares.

    Args:
        mean: tokens, at least ``start_size`` and ``recent_size`` together.
        shares: by layer, 0 or more.
        held: tokens by layer.
        heads: KV heads by layer, each of which holds as many tokens: the mean is over heads. Empty
            where all layers have as many.
        unit: tokens of which the budgets are multiples, but for one or few that take what is left.
    """
    weights = _in_smallest_terms(heads) if heads else [1] * len(held)
    fixed = start_size + recent_size
    room = [max(0, tokens - fixed) for tokens in held]
    left = sum(weights) * (mean - fixed)
    middle = [0] * len(held)
    hungry = list(range(len(held)))
    while hungry:
        total = sum(weights[n] * shares[n] for n in hungry)
        every = sum(weights[n] for n in hungry)
        wanted = {n: left * (shares[n] / total if total else 1 / every) for n in hungry}
        full = [n for n in hungry if wanted[n] >= room[n]]
        for n in full:
            middle[n] = room[n]
            left -= weights[n] * room[n]
        hungry = [n for n in hungry if wanted[n] < room[n]]
        if not full:
            for n in hungry:
                middle[n] = max(0, (fixed + int(wanted[n])) // unit * unit - fixed)
            lost = left - sum(weights[n] * middle[n] for n in hungry)
            hungry.sort(key=lambda n: middle[n] - wanted[n])  # rounded down the most
            for n in hungry:
                more = min(unit - (fixed + middle[n]) % unit, room[n] - middle[n])
                if weights[n] * more <= lost:
                    middle[n] += more
                    lost -= weights[n] * more
            # What is left is less than a unit of any of them: the first that can takes it.
            for n in hungry:
                more = min(lost // weights[n], room[n] - middle[n])
                middle[n] += more
                lost -= weights[n] * more
            break
    return [fixed + tokens for tokens in middle]


def _in_smallest_terms(heads: Sequence[int]) -> list[int]:
    common = gcd(*heads)
    return [count // common for count in heads]


def pyramid_shares(num_layers: int) -> tuple[float, ...]:
    """PyramidKV's (arXiv 2406.02069): down in even steps from the first layer to the last."""
    least = 1 / _PYRAMID_BETA
    return tuple(float(share) for share in np.linspace(2 - least, least, num_layers))


def with_least_share(weights: Sequence[float], least: float = _LEAST_SHARE) -> list[float]:
    """Shares in proportion to ``weights``, none below ``least`` of an even one, 1 on average."""
    return [least + (1 - least) * share for share in normalized(weights)]


def normalized(weights: Sequence[float]) -> tuple[float, ...]:
    """``weights`` with 1 on average; all alike where they are all 0.

    Raises:
        ConfigError: one of them is not a number, negative or not finite.
    """
    for weight in weights:
        if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise ConfigError(
                f"layer budget {weight!r} is not a finite number of 0 or more",
                "Give one number for each layer; they count in relation to each other.",
            )
    total = float(sum(weights))
    if not total:
        return (1.0,) * len(weights)
    return tuple(weight * len(weights) / total for weight in weights)


def _looks_away(attention: Floats, recent_size: int) -> float:
    """Part of a layer's window attention, 0 to 1, that goes to tokens before the recent area."""
    older = attention[:, : attention.shape[1] - recent_size].sum(dtype=np.float64)
    return float(older / max(attention.sum(dtype=np.float64), 1e-30))
