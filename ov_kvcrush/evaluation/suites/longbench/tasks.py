"""LongBench's English tasks, and how the answers of each are scored."""

from __future__ import annotations

METRIC_BY_TASK = {
    "narrativeqa": "f1",
    "qasper": "f1",
    "multifieldqa_en": "f1",
    "hotpotqa": "f1",
    "2wikimqa": "f1",
    "musique": "f1",
    "gov_report": "rouge_l",
    "qmsum": "rouge_l",
    "multi_news": "rouge_l",
    "trec": "classification",
    "triviaqa": "f1_first_line",
    "samsum": "rouge_l_first_line",
    "passage_count": "count",
    "passage_retrieval_en": "retrieval",
    "lcc": "edit_similarity",
    "repobench-p": "edit_similarity",
}
"""Names in ``METRICS``, as LongBench's own code has them; in the order of its tables."""
