"""Protobuf's text format is read as it was meant."""

from __future__ import annotations

import pytest

from ov_kvcrush.ovms.text_format import Field, Word, to_text
from tests.support.ovms_proto import parse_graph


@pytest.mark.parametrize(
    "path", ["./", 'a "quoted" \\ name', "Grüße 東京/模型", "a\nb\tc\x7f0", "it's", ""]
)
def test_a_text_is_read_as_it_was(path: str) -> None:
    options: Field = (
        "[type.googleapis.com/mediapipe.LLMCalculatorOptions]",
        [("models_path", path)],
    )
    text = to_text([("node", [("node_options", [options])])])
    assert text.isascii()
    assert parse_graph(text)[1].models_path == path


def test_words_numbers_and_switches_stand_without_quotes() -> None:
    fields: list[Field] = [
        ("mode", Word("SUM")),
        ("size", 32),
        ("on", True),
        ("off", False),
        ("none", []),
    ]
    assert to_text(fields) == "mode: SUM\nsize: 32\non: true\noff: false\nnone {\n}\n"
