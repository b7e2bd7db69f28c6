"""The kinds of conversation by name."""

from __future__ import annotations

from ov_kvcrush.evaluation.suites.generating.making import Maker
from ov_kvcrush.evaluation.suites.turns import code_lookup, key_value, needles, no_literal_match

TASKS: dict[str, Maker] = {
    needles.NEEDLES: needles.needles,
    key_value.TASK: key_value.key_value,
    needles.SUMMARY_WITH_NEEDLES: needles.summary_with_needles,
    code_lookup.TASK: code_lookup.code_lookup,
    no_literal_match.TASK: no_literal_match.no_literal_match,
}
"""Makers of samples, each with five questions; the first one comes with the context."""
