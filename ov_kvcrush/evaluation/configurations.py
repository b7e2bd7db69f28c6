"""What is compared: every policy with every budget and precision, and the full cache first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.policies import FULL, find_policy
from ov_kvcrush.precisions import require_precision_pair
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE

# Later questions are answered from what the first one left: their turns fit in without a cut.
_DECODE_SLACK = 1024

AS_EXPORTED = "exported"
"""The name of the precisions that the model was exported with."""


@dataclass(frozen=True)
class Configuration:
    """One row of the comparison.

    Attributes:
        policy: name of the policy, with settings where it was given some.
        engine: name of the engine that runs it.
        keep: part of the first prompt's tokens that stays; None is all.
        precision: of keys and of values; None is as exported.
    """

    policy: str
    engine: str
    keep: Fraction | None = None
    precision: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """For people: policy, part kept, precision where one was asked for.

        The full caches of two engines are told apart.
        """
        full = "full cache" if self.engine == find_policy(FULL).engine else "full cache (genai)"
        parts = [full if self.keep is None else f"{self.policy} {self.keep}"]
        return " ".join([*parts, "/".join(self.precision)] if self.precision else parts)

    def budget(self, tokens: int) -> int:
        """Tokens that stay of a prompt of ``tokens``; 0 is all.

        Each budget takes a pipeline of its own. So that few are needed, budgets are rounded down to
        pages, and where these are less than 2.5 % of it, to steps of 2.5 to 5 %.
        """
        if self.keep is None:
            return 0
        wanted = int(tokens * self.keep)
        step = PAGE_SIZE
        while step * 40 <= wanted:
            step *= 2
        # Never 0, which would keep everything: what is too small is refused as a setting.
        return max(PAGE_SIZE, wanted // step * step)

    def cache_config(self, budget: int, prefill_factor: float | None) -> KVCacheConfig:
        """The settings for a ``budget`` that :meth:`budget` gave.

        Args:
            budget: in tokens.
            prefill_factor: ``prefill_budget`` as a multiple of it; None leaves it to the config.
        """
        key, value = self.precision or (None, None)
        config = KVCacheConfig(key_cache_precision=key, value_cache_precision=value)
        if self.keep is None:
            return config
        policy = find_policy(self.policy)
        settings = config.to_dict() | {"max_cache_size": budget}
        if policy.engine == "paged":
            settings["decode_slack"] = _DECODE_SLACK
        if prefill_factor is not None:
            settings["prefill_budget"] = int(prefill_factor * budget) // PAGE_SIZE * PAGE_SIZE
        return KVCacheConfig.from_dict(settings | dict(policy.settings))


def make_configurations(
    policies: Sequence[str],
    keeps: Sequence[Fraction],
    precisions: Sequence[tuple[str, str] | None],
    reference: str | None = None,
) -> list[Configuration]:
    """All combinations, the full cache first in each precision.

    Args:
        policies: their names, with settings where they have some.
        keeps: parts of the tokens that stay.
        precisions: of the cache; none for the exported ones alone.
        reference: name of the full cache's engine; None is the policies' where they have the same.

    Raises:
        ConfigError: as :func:`find_policy`.
    """
    engine_of = {text: find_policy(text).engine for text in policies if text != FULL}
    engines = set(engine_of.values())
    # Beside openvino_genai's policies alone its own full cache: any device that it serves will do.
    if reference is None:
        reference = engines.pop() if len(engines) == 1 else find_policy(FULL).engine
    configurations = []
    for precision in dict.fromkeys(precisions) or [None]:
        configurations.append(Configuration(FULL, reference, None, precision))
        configurations += [
            Configuration(text, engine, keep, precision)
            for keep in dict.fromkeys(keeps)
            for text, engine in engine_of.items()
        ]
    return configurations


def parse_keep(text: str) -> Fraction:
    """The part of the tokens that stays, of a text such as 1/4 or 0.25.

    Raises:
        ConfigError: it is not a number between 0 and 1.
    """
    try:
        keep = Fraction(text)
    except (ValueError, ZeroDivisionError):
        keep = Fraction(0)
    if not 0 < keep < 1:
        raise ConfigError(
            f"--keep {text!r} is not a part of the tokens, between 0 and 1",
            "For instance: --keep 1/4 or --keep 0.25",
        )
    return keep


def parse_precision(text: str) -> tuple[str, str] | None:
    """Storage types of keys and values, of a text such as u8/u4; None of ``exported``.

    Raises:
        ConfigError: not of this form, or a pair the plugin cannot hold.
    """
    if text == AS_EXPORTED:
        return None
    key, slash, value = text.partition("/")
    if not (key and slash and value):
        raise ConfigError(
            f"--precision {text!r} is not KEY/VALUE",
            f"For instance: --precision u8/u4, or {AS_EXPORTED} for the model's own plan",
        )
    require_precision_pair(key, value)
    return key, value
