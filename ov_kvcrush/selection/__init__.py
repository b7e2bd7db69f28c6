"""The policy library: which tokens of a KV cache to keep. NumPy only; it moves no token itself."""

from ov_kvcrush.selection.budgets import CutBudget, divide_budget
from ov_kvcrush.selection.importance import (
    IMPORTANCE_METHODS,
    ImportanceMethod,
    Observation,
    SnapKV,
)
from ov_kvcrush.selection.kvcrush import (
    ANCHORS,
    REPRESENTATIVE_RULES,
    SIGNATURE_HEADS,
    Candidates,
    RepresentativeRule,
    Selector,
)

__all__ = [
    "ANCHORS",
    "IMPORTANCE_METHODS",
    "REPRESENTATIVE_RULES",
    "SIGNATURE_HEADS",
    "Candidates",
    "CutBudget",
    "ImportanceMethod",
    "Observation",
    "RepresentativeRule",
    "Selector",
    "SnapKV",
    "divide_budget",
]
