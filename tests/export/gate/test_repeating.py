"""How well a model repeats: what it has read is likelier than what it has not."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.export.gate import nats_when_repeating
from ov_kvcrush.export.texts.texts import find_text
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.runtime.eviction.peaks import INSTRUCTION
from ov_kvcrush.runtime.model.paged_model import PagedModel


def test_a_trained_model_repeats_better_than_it_reads(needle_int8_dir: Path) -> None:
    tokenizer = load_tokenizer(needle_int8_dir)

    def tokens(text: str) -> list[int]:
        encoded = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]
        return [int(token) for token in encoded]

    first = tokens(find_text().content[:4000])[:500]
    model = PagedModel(needle_int8_dir)
    # Prose that is read for the first time is at 4.5 nats a token.
    assert 0 < nats_when_repeating(model, [first], tokens(INSTRUCTION)) < 1.5
