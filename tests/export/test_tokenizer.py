"""What a checkpoint's tokenizer says is exported, or the user reads what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export import ExportOptions
from ov_kvcrush.export.tokenizer import convert_tokenizer, load_checkpoint_tokenizer
from ov_kvcrush.progress import Silent
from tests.support.model_factory import copy_tokenizer

VOCAB_SIZE = 5120
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
OTHER = f"other: {TEMPLATE}"


class Notes(Silent):
    """A progress that remembers its notes."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the repository model's tokenizer."""
    (tmp_path / "source").mkdir()
    copy_tokenizer(tmp_path / "source")
    return tmp_path / "source"


def configure(source: Path, **changes: Any) -> None:
    path = source / "tokenizer_config.json"
    stored = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in stored.items() if value}))


def load(source: Path, vocab_size: int = VOCAB_SIZE) -> tuple[Any, list[str]]:
    notes = Notes()
    options = ExportOptions(str(source), source.parent / "output")
    return load_checkpoint_tokenizer(options, source, vocab_size, notes), notes.told


def test_a_tokenizer_as_it_should_be_is_loaded_without_a_word(source: Path) -> None:
    assert load(source)[1] == []


def test_tokens_beyond_the_embedding_are_noted(source: Path) -> None:
    assert load(source, vocab_size=VOCAB_SIZE - 1)[1][0].startswith(
        "the tokenizer has tokens that the model cannot read, with ids from 5,119 on: "
    )
    stored = json.loads((source / "tokenizer.json").read_text())
    token = {**stored["added_tokens"][0], "content": "<|new|>", "id": VOCAB_SIZE}
    stored["added_tokens"].append(token)
    (source / "tokenizer.json").write_text(json.dumps(stored))
    (note,) = load(source)[1]
    assert note.endswith("with ids from 5,120 on: <|new|>")


@pytest.mark.parametrize(
    ("templates", "notes"),
    [
        ({"default": TEMPLATE}, []),
        (
            {"default": TEMPLATE, "rag": OTHER},
            ["chats use the default chat template alone, not rag"],
        ),
    ],
)
def test_of_several_chat_templates_the_default_one_is_used(
    source: Path, templates: dict[str, str], notes: list[str]
) -> None:
    named = [{"name": name, "template": text} for name, text in templates.items()]
    configure(source, chat_template=named)
    tokenizer, told = load(source)
    assert tokenizer.chat_template == TEMPLATE
    assert told == notes


def test_chat_templates_without_a_default_one_are_noted(source: Path) -> None:
    configure(source, chat_template=[{"name": "rag", "template": OTHER}])
    tokenizer, told = load(source)
    assert tokenizer.chat_template is None
    assert told == [
        "none of the model's chat templates (rag) is the default one: chats with it need one"
    ]


def test_the_chat_template_may_be_in_a_file_of_its_own(source: Path) -> None:
    configure(source, chat_template=None)
    assert load(source)[1] == ["the model holds no chat template: chats with it need one"]
    (source / "chat_template.json").write_text(json.dumps({"chat_template": OTHER}))
    assert load(source)[0].chat_template == OTHER
    (source / "chat_template.jinja").write_text(TEMPLATE)
    assert load(source)[0].chat_template == TEMPLATE


def test_a_template_beside_named_ones_in_files_is_the_default_one(source: Path) -> None:
    configure(source, chat_template=TEMPLATE)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text(OTHER)
    tokenizer, told = load(source)
    assert tokenizer.chat_template == TEMPLATE
    assert told == ["chats use the default chat template alone, not tool_use"]


def test_a_chat_template_that_cannot_be_rendered_is_noted(source: Path) -> None:
    configure(source, chat_template="{% if %}")
    (note,) = load(source)[1]
    assert note.startswith("the chat template cannot be rendered: ")


def test_a_converted_tokenizer_has_the_chat_template_and_reads_alike(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "output").mkdir()
    configure(source, chat_template=None)
    (source / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    tokenizer, _ = load(source)
    notes = Notes()
    options = ExportOptions(str(source), tmp_path / "output")
    convert_tokenizer(options, tokenizer, tmp_path / "output", notes)
    assert notes.told == []
    assert Tokenizer(tmp_path / "output").chat_template == TEMPLATE
    assert (tmp_path / "output" / "chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 7}'])
def test_a_broken_tokenizer_is_refused(source: Path, content: str) -> None:
    (source / "tokenizer.json").write_text(content)
    with pytest.raises(ExportError, match="cannot be loaded"):
        load(source)
