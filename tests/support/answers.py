"""What ``generate`` returned, where what was asked says which of its types it is."""

from __future__ import annotations

from ov_kvcrush.pipeline.results import DecodedResults, EncodedResults


def decoded(answer: str | DecodedResults | EncodedResults) -> DecodedResults:
    """The texts of several prompts or sequences, or of a history."""
    assert isinstance(answer, DecodedResults)
    return answer


def encoded(answer: str | DecodedResults | EncodedResults) -> EncodedResults:
    """The tokens of prompts given as tokens."""
    assert isinstance(answer, EncodedResults)
    return answer
