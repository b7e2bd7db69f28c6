"""RULER's tasks by name, in the configurations of the paper's comparison."""

from __future__ import annotations

from ov_kvcrush.evaluation.suites.generating.making import Maker
from ov_kvcrush.evaluation.suites.ruler import common_words, frequent_words, variable_tracking
from ov_kvcrush.evaluation.suites.ruler.needle_in_haystack import NeedleInHaystack

_NEEDLES = (
    NeedleInHaystack("niah_single_1", "noise"),
    NeedleInHaystack("niah_single_2", "prose"),
    NeedleInHaystack("niah_single_3", "prose", values="uuids"),
    NeedleInHaystack("niah_multikey_1", "prose", num_keys=4),
    NeedleInHaystack("niah_multikey_2", "needles"),
    NeedleInHaystack("niah_multikey_3", "needles", keys="uuids", values="uuids"),
    NeedleInHaystack("niah_multivalue", "prose", num_values=4),
    NeedleInHaystack("niah_multiquery", "prose", num_keys=4, num_asked=4),
)

TASKS: dict[str, Maker] = {
    **{maker.task: maker for maker in _NEEDLES},
    variable_tracking.TASK: variable_tracking.variable_tracking,
    common_words.TASK: common_words.common_words,
    frequent_words.TASK: frequent_words.frequent_words,
}
"""Makers of samples; two tasks of the paper are missing, which ask about data sets."""
