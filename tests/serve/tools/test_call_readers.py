"""Text and calls out of the pieces of an answer, however it is divided."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_kvcrush.serve.tools.call_reader import CallReader, TextReader
from ov_kvcrush.serve.tools.calls import Call, CallArguments, Parsed, Piece, TextPiece, new_call_id
from ov_kvcrush.serve.tools.exact_calls import ExactCallReader
from ov_kvcrush.serve.tools.marked_calls import MarkedCallReader
from ov_kvcrush.serve.tools.style import POLYFILLED, ToolStyle
from ov_kvcrush.serve.tools.whole_calls import WholeCallReader
from tests.support.tool_styles import LLAMA_LIKE, QWEN_LIKE

NAMES = ("f", "find")
LISTED = ToolStyle(begin="[TOOLS] [", between=", ", end="]", before="")
Make = Callable[[], CallReader]
MAKERS: dict[str, Make] = {
    "exact-qwen": lambda: ExactCallReader(QWEN_LIKE, NAMES),
    "exact-llama": lambda: ExactCallReader(LLAMA_LIKE, NAMES),
    "exact-polyfilled": lambda: ExactCallReader(POLYFILLED, NAMES),
    "exact-led": lambda: ExactCallReader(replace(QWEN_LIKE, lead=" "), NAMES),
    "exact-listed": lambda: ExactCallReader(LISTED, NAMES),
    "marked-qwen": lambda: MarkedCallReader(QWEN_LIKE, NAMES),
    "marked-listed": lambda: MarkedCallReader(LISTED, NAMES),
    "whole": lambda: WholeCallReader(NAMES),
    "whole-or-qwen": lambda: WholeCallReader(NAMES, None, MarkedCallReader(QWEN_LIKE, NAMES)),
    "text": TextReader,
}
# What answers are made of: the parts of calls, right and wrong, and text.
PARTS = st.sampled_from(
    [
        *("<tool_call>", "\n<tool_call>\n", "</tool_call>", "\n</tool_call>", "\n", " ", "<tool"),
        *('{"name": "f", "arguments": ', '{"name": "find", "parameters": ', '{"name": "no"'),
        *('{"arguments": {}, "name": "f"}', '{"x": "}\\""}', "{}", "}", "{", "[", "]", ", ", ","),
        *(
            '{"tool_calls": [',
            "]}",
            "[TOOLS]",
            "[TOOLS] [",
            "Zebras",
            "é",
            '"',
            "\\",
            "}]}",
            "```",
            "json",
        ),
        '<tool_call>\n{"name": "f", "arguments": {"x": [1, {"y": "</tool_call>"}]}}\n</tool_call>',
        '{"name": "find", "parameters": {"x": 1}}',
    ]
)
ANSWERS = st.lists(PARTS, max_size=12).map("".join)


def named(parsed: Parsed) -> tuple[str, list[tuple[str, str]], int]:
    """All of it but the ids, which are new every time."""
    return parsed.text, [(call.name, call.arguments) for call in parsed.calls], parsed.num_whole


def in_pieces(reader: CallReader, pieces: Sequence[str]) -> Parsed:
    parsed = Parsed()
    for piece in pieces:
        parsed.add(reader.feed(piece))
    parsed.add(reader.end())
    return parsed


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_read_does_not_depend_on_how_the_answer_is_divided(make: Make) -> None:
    @settings(max_examples=60)
    @given(ANSWERS, st.lists(st.integers(0, 200), max_size=8))
    def check(answer: str, cuts: list[int]) -> None:
        whole = named(make().read(answer))
        assert named(in_pieces(make(), list(answer))) == whole
        places = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
        pieces = [answer[a:b] for a, b in itertools.pairwise(places)]
        assert named(in_pieces(make(), pieces)) == whole

    check()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_character_is_text_or_of_a_call(make: Make) -> None:
    @settings(max_examples=40)
    @given(ANSWERS)
    def check(answer: str) -> None:
        parsed = make().read(answer)
        if not parsed.calls:
            assert parsed.text == answer
        for call in parsed.calls[: parsed.num_whole]:
            assert call.arguments.replace(" ", "") in answer.replace(" ", "")

    check()


@pytest.mark.parametrize("style", [QWEN_LIKE, LLAMA_LIKE, POLYFILLED, LISTED])
def test_what_a_style_spells_is_read(style: ToolStyle) -> None:
    count = 1 if style.between is None else 3
    texts = st.sampled_from(["", "}", '"', "\\", "</tool_call>", "]}", "é", '{"name": "f"'])
    values = texts | st.lists(texts, max_size=2) | st.dictionaries(texts, texts, max_size=2)
    arguments = st.dictionaries(texts, values, max_size=3).map(
        lambda values: json.dumps(values, ensure_ascii=False)
    )
    calls = st.lists(st.tuples(st.sampled_from(NAMES), arguments), min_size=1, max_size=count)
    before = st.just("") if style.before is None else st.sampled_from(["", "Zebras.", "A\n\nb\n"])

    @settings(max_examples=40)
    @given(calls, before)
    def check(called: list[tuple[str, str]], text: str) -> None:
        answer = style.spell([Call("", *one) for one in called], text)
        assert answer is not None
        free: CallReader = WholeCallReader(NAMES)
        if style.is_marked:
            free = MarkedCallReader(style, NAMES)
        for reader in (ExactCallReader(style, NAMES), free):
            assert named(reader.read(answer)) == (text, called, len(called))

    check()


def pieces_of(reader: CallReader, answer: str) -> list[Piece]:
    return [piece for character in answer for piece in reader.feed(character)]


def test_exact_arguments_come_as_they_are_written() -> None:
    reader = ExactCallReader(QWEN_LIKE, NAMES)
    head = 'Well.\n<tool_call>\n{"name": "find", "arguments": '
    assert pieces_of(reader, head)[:5] == [TextPiece(one) for one in "Well."]
    assert reader.num_calls == 1
    assert reader.feed('{"x": ') == [CallArguments(0, '{"x": ')]
    assert reader.feed('"}') == [CallArguments(0, '"}')]
    assert len(reader.feed('"}')) == 2
    assert reader.feed("}\n</tool_call>") == reader.end() == []


def test_text_is_held_back_only_while_it_may_begin_a_call() -> None:
    reader = MarkedCallReader(QWEN_LIKE, NAMES)
    assert reader.feed("a\n<tool") == [TextPiece("a")]
    assert reader.feed("s> <") == [TextPiece("\n<tools> ")]
    assert reader.feed("b") == [TextPiece("<b")]
    whole = WholeCallReader(NAMES)
    assert whole.feed(" ") == []
    assert whole.feed("a") == [TextPiece(" a")]
    assert whole.feed('{"name"') == [TextPiece('{"name"')]


CUT_OFF = '<tool_call>\n{"name": "f", "arguments": {"x": "unti'


def test_a_call_that_was_cut_off_is_one_where_it_must_be_and_text_elsewhere() -> None:
    exact = ExactCallReader(QWEN_LIKE, NAMES).read(CUT_OFF)
    assert named(exact) == ("", [("f", '{"x": "unti')], 0)
    assert named(MarkedCallReader(QWEN_LIKE, NAMES).read(CUT_OFF)) == (CUT_OFF, [], 0)
    assert named(WholeCallReader(NAMES).read('{"name": "f",')) == ('{"name": "f",', [], 0)


@pytest.mark.parametrize(
    "written",
    [
        '{"name":"f","arguments":{"x": 1}}',
        '  {"name": "f",\n "arguments": {"x": 1}}  ',
        '{"name": "f", "parameters": {"x": 1}}',
        '{"arguments": {"x": 1}, "name": "f"}',
        '{"name": "f", "arguments": "{\\"x\\": 1}"}',
        '{"name": "f", "arguments": {"x": 1}, "id": "call_1"}',
    ],
)
def test_a_free_call_may_be_spelled_in_many_ways(written: str) -> None:
    want = ("", [("f", '{"x": 1}')], 1)
    assert named(WholeCallReader(NAMES).read(written)) == want
    for answer in (f"<tool_call>{written}</tool_call>", f"\n<tool_call>\n{written}"):
        assert named(MarkedCallReader(QWEN_LIKE, NAMES).read(answer)) == want
    listed = json.dumps({"tool_calls": [json.loads(written)], "content": ""}, indent=2)
    text, calls, _ = named(WholeCallReader(NAMES).read(listed))
    assert text == ""
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [("f", {"x": 1})]


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "unknown", "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": {}, "parameters": {}}',
        '{"name": ["f"], "arguments": {}}',
        '{"name": "f", "arguments": {x: 1}}',
        "{}",
        "[1]",
    ],
)
def test_what_is_not_a_call_stays_text(written: str) -> None:
    answer = f"a\n<tool_call>\n{written}\n</tool_call>\n"
    assert named(MarkedCallReader(QWEN_LIKE, NAMES).read(answer)) == (answer, [], 0)
    assert named(WholeCallReader(NAMES).read(written)) == (written, [], 0)


def test_what_follows_a_bad_call_is_read() -> None:
    good = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    reader = MarkedCallReader(QWEN_LIKE, NAMES)
    assert named(reader.read(f"<tool_call>\n{good}")) == ("<tool_call>", [("f", "{}")], 1)


def test_only_as_many_calls_are_read_as_there_may_be() -> None:
    answer = QWEN_LIKE.spell([Call("", "f", "{}")] * 3) or ""
    assert named(MarkedCallReader(QWEN_LIKE, NAMES, 1).read(answer)) == ("", [("f", "{}")], 1)
    listed = POLYFILLED.spell([Call("", "f", "{}")] * 3) or ""
    assert named(WholeCallReader(NAMES, 1).read(listed)) == ("", [("f", "{}")], 1)


def test_ids_are_new_and_as_clients_know_them() -> None:
    ids = {new_call_id() for _ in range(8)}
    assert len(ids) == 8
    assert all(re.fullmatch("call_[0-9a-f]{24}", one) for one in ids)
