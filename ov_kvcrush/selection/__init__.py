"""The policy library: which tokens of a KV cache to keep. NumPy only; it moves no token itself."""

from ov_kvcrush.selection.cut_budget import CutBudget, divide_budget
from ov_kvcrush.selection.head_groups import group_all_heads, group_heads
from ov_kvcrush.selection.importance import IMPORTANCE_METHODS, ImportanceMethod, make_importance
from ov_kvcrush.selection.kvcrush import Selector
from ov_kvcrush.selection.layer_shares import (
    LAYER_BUDGETS,
    LayerShares,
    divide_between_layers,
    make_layer_shares,
    resolved_budgets,
)
from ov_kvcrush.selection.observation import Observation
from ov_kvcrush.selection.representatives import (
    REPRESENTATIVE_RULES,
    Candidates,
    RepresentativeRule,
)
from ov_kvcrush.selection.signature import ANCHORS, SIGNATURE_HEADS

__all__ = [
    "ANCHORS",
    "IMPORTANCE_METHODS",
    "LAYER_BUDGETS",
    "REPRESENTATIVE_RULES",
    "SIGNATURE_HEADS",
    "Candidates",
    "CutBudget",
    "ImportanceMethod",
    "LayerShares",
    "Observation",
    "RepresentativeRule",
    "Selector",
    "divide_between_layers",
    "divide_budget",
    "group_all_heads",
    "group_heads",
    "make_importance",
    "make_layer_shares",
    "resolved_budgets",
]
