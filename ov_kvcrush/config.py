"""What the KV cache may hold and in which precision: frozen settings, checked when made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, OVKVCrushError, did_you_mean
from ov_kvcrush.files import read_json
from ov_kvcrush.precisions import KV_PRECISIONS
from ov_kvcrush.selection import (
    ANCHORS,
    IMPORTANCE_METHODS,
    LAYER_BUDGETS,
    REPRESENTATIVE_RULES,
    SIGNATURE_HEADS,
    Selector,
    make_importance,
)
from ov_kvcrush.selection.layer_shares import normalized
from ov_kvcrush.setting import check_settings, setting

GRANULARITIES = ("token", "page")
AUTO = "auto"
HEAD_BUDGETS = (AUTO, "off")

# The rules that `auto` stands for (docs/selection.md).
_WITH_GATE, _WITHOUT_GATE = "gate_distinct", "distinct"
# The pooling that goes with them.
_KERNEL_WITH_GATE, _KERNEL_WITHOUT_GATE = 1, 31
_NEEDING_GATE = {name for name, rule in REPRESENTATIVE_RULES.items() if rule.needs_gate}

# A prefill budget that is not given is so many times the budget (docs/selection.md).
_PREFILL_FACTOR = 1.5


@dataclass(frozen=True)
class KVCacheConfig:
    """How many tokens of a sequence stay in the KV cache, which ones, and what they are stored in.

    Every size is in tokens and counts per sequence, layer and KV head; where layers or heads have
    budgets of their own, ``max_cache_size`` and ``prefill_budget`` are the mean over all heads.

    Attributes:
        max_cache_size: all tokens kept by a cut: start, recent, important ones and representatives
            together. 0 keeps everything.
        kv_budget_mb: the same in MB (10^6 bytes) of a sequence's cache, instead of it: the engine
            buys as many tokens as the precisions of the layers allow, with ``decode_slack`` and
            half-filled pages in it. While a prompt is read, ``prefill_budget`` counts.
        layer_budgets: how the budget between start and recent is shared out to the layers:
            ``"uniform"``; ``"pyramid"``, less from layer to layer; ``"adaptive"``, more where the
            last queries look further back; ``"plan"``, as the export measured it; a number for each
            layer, in any unit; ``"auto"``, what belongs to the importance method, else the plan's,
            else uniform.
        head_budgets: whether the KV heads of a layer have budgets of their own: ``"auto"``, where
            the layers' budgets are the plan's and it tells shares by head; ``"off"``, never: the
            heads of a layer share one cache.
        prefill_budget: tokens kept when a prompt is cut while it is being read, after as many
            tokens as ``max_cache_size`` (at least 512, at most ``max_num_batched_tokens``, rounded
            up to 128), the first time once it holds both together: it never holds more. 0 cuts when
            the prompt has been read and not before; None is 1.5 times ``max_cache_size``.
        start_size: the first tokens (attention sinks), never evicted.
        recent_size: the last tokens, never evicted.
        granularity: ``"token"``, or ``"page"`` to keep or evict whole pages.
        importance: name of the importance method.
        window_size: queries, counted from the last, whose attention scores the tokens.
        kernel_size: width in tokens of the max-pooling over the scores (odd; 1 is none); None is 1
            beside a rule that looks at a gate and 31 elsewhere.
        representatives: how the representatives of the evicted tokens are chosen; ``"none"`` leaves
            the importance method alone; ``"gate"`` and ``"gate_distinct"`` need a model with a gate
            (``ov-kvcrush calibrate``); ``"auto"`` is ``"gate_distinct"`` for these and
            ``"distinct"`` for others.
        representative_share: part of the budget between start and recent that goes to
            representatives (the paper's split, rho), 0 to 1.
        prefill_representative_share: the same for the cuts while a prompt is read, when what will
            be asked may not be known yet; None is all for ``distinct`` (unless its share is
            0), which keeps a text better alone then, and else as ``representative_share``.
        anchor: the vector every signature is compared with.
        signature_heads: one signature bit per ``"kv"`` head or per ``"query"`` head.
        signature_fraction: part of the middle tokens for which a head's bit is one.
        seed: for the ``random`` importance, representatives and anchor.
        decode_slack: tokens the cache may grow past ``max_cache_size`` before it is cut again.
        key_cache_precision: storage type of keys; None takes what the model was exported with.
        value_cache_precision: the same for values.
        pool_size: tokens the page pool holds for all sequences together; None: full contexts for
            as many sequences as may run at once, or fewer where memory is short. Memory is only
            taken as tokens come.
        prefix_caching: what prompts begin with is kept while there is room, and prompts that begin
            alike share its pages instead of reading it again.

    Raises:
        ConfigError: a value is out of range or contradicts another one.
    """

    max_cache_size: int = setting(
        0,
        "All tokens that a cut keeps of a sequence; 0 evicts nothing.",
        least=0,
        unit="TOKENS",
        counts_always=True,
    )
    kv_budget_mb: float | None = setting(
        None,
        "Instead of it, MB of a sequence's cache: as many tokens as fit.",
        unit="MB",
        default="none",
        counts_always=True,
    )
    layer_budgets: str | tuple[float, ...] = setting(
        "auto", "How layers share it, or a number for each, with commas:", LAYER_BUDGETS
    )
    head_budgets: str = setting(
        AUTO, "Whether KV heads have their own parts of it, where measured:", HEAD_BUDGETS
    )
    prefill_budget: int | None = setting(
        None,
        "Tokens kept while a prompt is read; 0 is all.",
        least=0,
        unit="TOKENS",
        default="1.5 times --max-cache-size",
    )
    start_size: int = setting(32, "First tokens (attention sinks), never evicted.", unit="TOKENS")
    recent_size: int = setting(64, "Last tokens, never evicted.", unit="TOKENS")
    granularity: str = setting("token", "What is kept or evicted as a whole:", GRANULARITIES)
    importance: str = setting("snapkv", "What makes a token important:", IMPORTANCE_METHODS)
    window_size: int = setting(16, "Last queries whose attention scores the tokens.", least=1)
    kernel_size: int | None = setting(
        None,
        "Width of the max-pooling over the scores; odd, 1 is none.",
        unit="TOKENS",
        default="1 beside a gate, else 31",
    )
    representatives: str = setting(
        AUTO,
        "How representatives of the evicted tokens are chosen:",
        (AUTO, *REPRESENTATIVE_RULES),
    )
    representative_share: float = setting(
        0.5, "Representatives' part of the budget between start and recent, 0 to 1."
    )
    prefill_representative_share: float | None = setting(
        None,
        "The same for cuts while a prompt is read.",
        default="1 for distinct, else --representative-share",
    )
    anchor: str = setting("mean", "What every token's signature is compared with:", ANCHORS)
    signature_heads: str = setting("kv", "Heads that give a signature its bits:", SIGNATURE_HEADS)
    signature_fraction: float = setting(0.5, "Part of the tokens for which a head's bit is one.")
    # Beside --rng-seed a plain --seed would be taken for the sampler's.
    seed: int = setting(
        0, "For what is random in importance, representatives and anchor.", flag="--selection-seed"
    )
    decode_slack: int = setting(
        128, "Growth past --max-cache-size before the cache is cut again.", least=0, unit="TOKENS"
    )
    key_cache_precision: str | None = setting(
        None, "Keys are stored as", KV_PRECISIONS, default="as exported", counts_always=True
    )
    value_cache_precision: str | None = setting(
        None, "Values are stored as", KV_PRECISIONS, default="as exported", counts_always=True
    )
    pool_size: int | None = setting(
        None,
        "Room for all sequences together.",
        least=1,
        unit="TOKENS",
        default="what the memory allows",
        counts_always=True,
    )
    prefix_caching: bool = setting(
        True, "Prompts that begin alike share what is cached of it.", counts_always=True
    )

    def __post_init__(self) -> None:
        if isinstance(self.layer_budgets, list):  # as JSON has it
            object.__setattr__(self, "layer_budgets", tuple(self.layer_budgets))
        check_settings(self)
        if self.kv_budget_mb is not None:
            self._check_bytes(self.kv_budget_mb)
        if isinstance(self.layer_budgets, tuple):
            normalized(self.layer_budgets)
        # The policy's own settings are checked by the policy.
        self.selector(page_size=1)
        self.prefill_selector(page_size=1)
        if self.max_cache_size:
            self._check_budget()

    def _check_bytes(self, budget: float) -> None:
        _require(0 < budget < float("inf"), f"kv_budget_mb is {budget:g}, not above 0")
        _require(
            not self.max_cache_size,
            f"kv_budget_mb {budget:g} and max_cache_size {self.max_cache_size} are two budgets",
            "Give one of them.",
        )

    def _check_budget(self) -> None:
        fixed = self.start_size + self.recent_size
        _require(
            self.max_cache_size > fixed,
            f"max_cache_size {self.max_cache_size} leaves nothing to choose: "
            f"start_size {self.start_size} + recent_size {self.recent_size} already take {fixed}",
            f"Give max_cache_size more than {fixed}, or make start_size or recent_size smaller.",
        )
        _require(
            self.window_size <= self.recent_size,
            f"window_size {self.window_size} exceeds recent_size {self.recent_size}: the queries "
            "that score the cache have to be among the tokens that stay",
            f"Set window_size to {self.recent_size} or less, or raise recent_size."
            if self.recent_size
            else f"Set recent_size to {self.window_size} or more.",
        )
        _require(
            not self.prefill_budget or self.prefill_budget >= self.max_cache_size,
            f"prefill_budget {self.prefill_budget} is below max_cache_size {self.max_cache_size}, "
            "to which the cache is cut when the prompt has been read",
            f"Give {self.max_cache_size} or more, or 0 to cut nothing before.",
        )

    @property
    def _rule(self) -> str:
        return _WITHOUT_GATE if self.representatives == AUTO else self.representatives

    @property
    def evicts(self) -> bool:
        """Whether tokens are ever evicted."""
        return self.max_cache_size > 0 or self.kv_budget_mb is not None

    @property
    def tokens_kept_in_prefill(self) -> int:
        """``prefill_budget``, or what it is where it was left open; 0 for all."""
        if self.prefill_budget is not None:
            return self.prefill_budget
        return int(_PREFILL_FACTOR * self.max_cache_size)

    def with_tokens(self, max_cache_size: int) -> KVCacheConfig:
        """The same with a budget in tokens in place of the one in MB.

        Raises:
            ConfigError: so few leave nothing to choose.
        """
        return dataclasses.replace(self, max_cache_size=max_cache_size, kv_budget_mb=None)

    def require_page_multiples(self, page_size: int) -> None:
        """Refuse sizes that whole pages of ``page_size`` tokens cannot meet.

        Raises:
            ConfigError: granularity is ``page`` and a size is not a multiple of the page.
        """
        if self.granularity != "page" or not self.evicts:
            return
        for name in ("max_cache_size", "prefill_budget", "start_size", "recent_size"):
            value = getattr(self, name) or 0
            if value % page_size:
                usable = [*map(str, self.multiples_near(name, page_size)), "granularity 'token'"]
                raise ConfigError(
                    f"{name} {value} is not a multiple of the page size {page_size}, "
                    "which granularity 'page' needs",
                    f"Use {' or '.join(usable)}.",
                )

    def multiples_near(self, name: str, page_size: int) -> list[int]:
        """The multiples of ``page_size`` below and above the setting that the others allow."""
        below = (getattr(self, name) or 0) // page_size * page_size
        return [size for size in (below, below + page_size) if self._allows(name, size)]

    def _allows(self, name: str, value: int) -> bool:
        try:
            KVCacheConfig(**{**self.to_dict(), name: value})
        except ConfigError:
            return False
        return True

    def for_model(self, has_gate: bool, trusts_gate: bool = True) -> KVCacheConfig:
        """The same with nothing left open that depends on whether the model has a gate.

        ``trusts_gate``: whether it is gone by without being asked for.

        Raises:
            ConfigError: a gate is asked for, and there is none.
        """
        asks_for_gate = self.representatives in _NEEDING_GATE
        _require(
            has_gate or not (asks_for_gate and self.evicts),
            f"representatives {self.representatives!r} needs a gate, and the model has none",
            "Make one with: ov-kvcrush calibrate MODEL_DIR, or leave the setting out.",
        )
        rule = self.representatives
        if rule == AUTO:
            rule = _WITH_GATE if has_gate and trusts_gate else _WITHOUT_GATE
        return dataclasses.replace(
            self,
            representatives=rule,
            kernel_size=_kernel_beside(rule) if self.kernel_size is None else self.kernel_size,
        )

    @property
    def needs_gate(self) -> bool:
        """Whether a gate has a say in any cut."""
        selectors = (self.selector(page_size=1), self.prefill_selector(page_size=1))
        return self.evicts and any(selector.needs_gate for selector in selectors)

    def without_gate(self) -> KVCacheConfig:
        """What is as near as can be for tokens of which a gate has said nothing."""
        return self._with_rule(_WITHOUT_GATE) if self.representatives in _NEEDING_GATE else self

    def with_scores(self) -> KVCacheConfig:
        """The same where a second reading has scored every token, as a gate would."""
        return self if self.representatives in _NEEDING_GATE else self._with_rule(_WITH_GATE)

    def _with_rule(self, rule: str) -> KVCacheConfig:
        """The same with another rule, and its pooling where that was the former rule's."""
        goes_with = self.kernel_size == _kernel_beside(self._rule)
        kernel_size = _kernel_beside(rule) if goes_with else self.kernel_size
        return dataclasses.replace(self, representatives=rule, kernel_size=kernel_size)

    def selector(self, page_size: int) -> Selector:
        """The policy these settings describe, for pages of ``page_size`` tokens.

        What :meth:`for_model` would settle is as for a model without a gate.
        """
        return Selector(
            importance=make_importance(
                self.importance,
                window_size=self.window_size,
                kernel_size=_kernel_beside(self._rule)
                if self.kernel_size is None
                else self.kernel_size,
                seed=self.seed,
            ),
            start_size=self.start_size,
            recent_size=self.recent_size,
            representatives=self._rule,
            representative_share=self.representative_share,
            anchor=self.anchor,
            signature_heads=self.signature_heads,
            signature_fraction=self.signature_fraction,
            seed=self.seed,
            page_size=page_size if self.granularity == "page" else 1,
        )

    def prefill_selector(self, page_size: int) -> Selector:
        """The policy of the cuts while a prompt is read."""
        share = self.prefill_representative_share
        if share is None:
            alone = REPRESENTATIVE_RULES[self._rule].leads and self.representative_share
            share = 1.0 if alone else self.representative_share
        return dataclasses.replace(self.selector(page_size), representative_share=share)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> KVCacheConfig:
        """Build from a mapping; unknown names raise ConfigError with the closest known one."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in known:
                raise ConfigError(f"unknown KV cache setting {name!r}", did_you_mean(name, known))
        return cls(**settings)

    @classmethod
    def from_file(cls, path: str | Path) -> KVCacheConfig:
        """Read a JSON object of settings from ``path``."""
        try:
            settings = read_json(Path(path))
        except OVKVCrushError as error:
            raise ConfigError(error.message) from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{path} holds a {type(settings).__name__}, not a JSON object")
        return cls.from_dict(settings)

    def to_dict(self) -> dict[str, Any]:
        """All settings, as ``from_dict`` takes them."""
        return dataclasses.asdict(self)


def _kernel_beside(rule: str) -> int:
    return _KERNEL_WITH_GATE if rule in _NEEDING_GATE else _KERNEL_WITHOUT_GATE


def _require(condition: bool, message: str, hint: str = "") -> None:
    if not condition:
        raise ConfigError(message, hint)
