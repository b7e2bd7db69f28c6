"""When a sequence ends, where a stop string ends its text, and what streamers see meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openvino_genai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino_genai import GenerationConfig, GenerationFinishReason, StreamingStatus, Tokenizer

from ov_kvcrush.errors import PromptError
from ov_kvcrush.pipeline.results import decoded
from ov_kvcrush.pipeline.streaming import open_stream
from ov_kvcrush.runtime.generation.request import Generation
from ov_kvcrush.runtime.generation.sampler import SampledToken

STOP, LENGTH = GenerationFinishReason.STOP, GenerationFinishReason.LENGTH


@pytest.fixture(scope="module")
def tokenizer(needle_f32_dir: Path) -> Tokenizer:
    return Tokenizer(needle_f32_dir)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return [int(id) for id in tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]]


def letter_by_letter(tokenizer: Tokenizer, text: str) -> list[int]:
    return [token for letter in text for token in encode(tokenizer, letter)]


class Recorder(openvino_genai.StreamerBase):  # type: ignore[misc]
    """Keeps what it is handed, and answers each write with the next of ``answers``, then None."""

    def __init__(self, *answers: StreamingStatus | bool | None) -> None:
        super().__init__()
        self.writes: list[list[int]] = []
        self.num_ends = 0
        self._answers = list(answers)

    def write(self, tokens: list[int]) -> StreamingStatus | bool | None:
        self.writes.append(tokens)
        return self._answers.pop(0) if self._answers else None

    def end(self) -> None:
        self.num_ends += 1


def generation_of(
    tokenizer: Tokenizer | None, prompt_length: int = 4, **settings: Any
) -> Generation:
    return Generation(0, [5] * prompt_length, GenerationConfig(**settings), tokenizer)


def append(generation: Generation, tokens: Iterable[int]) -> None:
    for token in tokens:
        if generation.finish_reason is None:
            generation.append(SampledToken(token, 0.0), 0.0)


def run(
    tokens: list[int], tokenizer: Tokenizer | None = None, prompt_length: int = 4, **settings: Any
) -> tuple[GenerationFinishReason | None, list[int], list[list[int]]]:
    """Append ``tokens`` until finished: the reason, the tokens that stay, what was streamed."""
    generation = generation_of(tokenizer, prompt_length, **settings)
    streamer = Recorder()
    stream = open_stream(streamer, generation, tokenizer)
    for token in tokens:
        append(generation, [token])
        stream.advance()
    reason = generation.finish_reason
    generation.end(LENGTH)
    stream.end()
    assert streamer.num_ends == 1
    assert [token for written in streamer.writes for token in written] == generation.tokens
    return reason, generation.tokens, streamer.writes


def shown(
    tokens: list[int], tokenizer: Tokenizer, **settings: Any
) -> tuple[GenerationFinishReason | None, str, list[str]]:
    """The same as text: the reason, the answer, its pieces as a callable gets them."""
    generation = generation_of(tokenizer, **settings)
    pieces: list[str] = []
    stream = open_stream(pieces.append, generation, tokenizer)
    for token in tokens:
        append(generation, [token])
        stream.advance()
    reason = generation.finish_reason
    generation.end(LENGTH)
    stream.end()
    (text,) = decoded(tokenizer, [generation], 0.0).texts
    assert "".join(pieces) == text
    assert all(pieces)
    return reason, text, pieces


def test_without_an_end_nothing_is_finished_and_all_is_streamed_at_once() -> None:
    assert run([5, 6, 7]) == (None, [5, 6, 7], [[5], [6], [7]])


def test_length_is_max_new_tokens_or_what_max_length_leaves() -> None:
    assert run([5, 6, 7], max_new_tokens=2) == (LENGTH, [5, 6], [[5], [6]])
    assert run([5, 6, 7], max_length=6, prompt_length=4)[:2] == (LENGTH, [5, 6])
    assert run([5, 6, 7], max_length=6, max_new_tokens=3, prompt_length=4)[1] == [5, 6, 7]


def test_a_prompt_as_long_as_max_length_is_refused() -> None:
    with pytest.raises(PromptError, match="leaves none to generate"):
        run([5], max_length=4, prompt_length=4)


def test_a_stop_token_ends_the_sequence_and_stays() -> None:
    assert run([5, 2, 7], eos_token_id=2) == (STOP, [5, 2], [[5], [2]])
    assert run([5, 6, 7], eos_token_id=2, stop_token_ids={6})[:2] == (STOP, [5, 6])
    assert run([5, 2, 7], eos_token_id=2, max_new_tokens=2)[0] == STOP


def test_ignore_eos_ignores_every_stop_token() -> None:
    settings: dict[str, Any] = {"eos_token_id": 2, "stop_token_ids": {2, 6}, "ignore_eos": True}
    assert run([5, 6, 2, 7], max_new_tokens=4, **settings)[:2] == (LENGTH, [5, 6, 2, 7])


def test_a_text_ends_where_a_stop_string_begins(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late.\nQuestion: why")
    assert shown(tokens, tokenizer, stop_strings={"Question:"})[:2] == (STOP, "It was late.\n")


def test_or_behind_it_where_it_is_included(tokenizer: Tokenizer) -> None:
    settings: dict[str, Any] = {"stop_strings": {"Quest"}, "include_stop_str_in_output": True}
    for tokens in (
        encode(tokenizer, "It was late.\nQuestion: why"),
        letter_by_letter(tokenizer, "It was late.\nQuestion: why"),
    ):
        assert shown(tokens, tokenizer, **settings)[:2] == (STOP, "It was late.\nQuest")


def test_a_stop_string_is_found_however_it_is_spelled(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was") + letter_by_letter(tokenizer, " the candle of")
    assert len(encode(tokenizer, " candle")) == 1
    assert shown(tokens, tokenizer, stop_strings={" candle"})[:2] == (STOP, "It was the")


def test_a_stop_string_that_begins_inside_a_token_cuts_it(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was a candle, and")
    assert len(encode(tokenizer, " candle")) == 1
    reason, text, pieces = shown(tokens, tokenizer, stop_strings={"dle, a"})
    assert (reason, text) == (STOP, "It was a can")
    assert pieces[-1] == " can"
    # Tokens are whole: the one that is cut stays, for it begins before.
    assert run(tokens, tokenizer, stop_strings={"dle, a"})[1] == tokens[:4]


@given(
    text=st.text("ab \n世🎉", max_size=30),
    strings=st.sets(st.text("ab \n世🎉", min_size=1, max_size=4), min_size=1, max_size=3),
    includes=st.booleans(),
    by_letter=st.booleans(),
)
def test_any_text_is_cut_at_the_first_of_any_stop_strings(
    tokenizer: Tokenizer, text: str, strings: set[str], includes: bool, by_letter: bool
) -> None:
    tokens = letter_by_letter(tokenizer, text) if by_letter else encode(tokenizer, text)
    stopping: dict[str, Any] = {"stop_strings": strings, "include_stop_str_in_output": includes}
    reason, answer, _ = shown(tokens, tokenizer, max_new_tokens=10_000, **stopping)
    found = sorted((text.find(one), len(one)) for one in strings if one in text)
    if not found:
        assert (reason, answer) == (None, text)
        return
    begin, length = found[0]
    assert answer == text[: begin + includes * length]
    kept = run(tokens, tokenizer, max_new_tokens=10_000, **stopping)[1]
    assert tokenizer.decode(kept).startswith(answer)
    assert len(tokenizer.decode(kept[:-1]).rstrip("\ufffd")) <= len(answer)


@given(tokens=st.lists(st.integers(8, 4999), max_size=60), strings=st.sets(st.sampled_from("aeio")))
def test_any_tokens_are_shown_as_they_are_decoded(
    tokenizer: Tokenizer, tokens: list[int], strings: set[str]
) -> None:
    text = tokenizer.decode(tokens)
    ends = [text.find(one) for one in strings if one in text]
    answer = shown(tokens, tokenizer, max_new_tokens=10_000, stop_strings=strings)[1]
    assert answer == text[: min(ends, default=None)]


def test_the_first_stop_string_wins_though_another_is_complete_before(
    tokenizer: Tokenizer,
) -> None:
    strings = {"b c", "a b c d"}
    for last in ("d", "x"):
        for spell in (encode, letter_by_letter):
            tokens = spell(tokenizer, f"so a b c {last} e")
            expected = "so " if last == "d" else "so a "
            assert shown(tokens, tokenizer, stop_strings=strings)[:2] == (STOP, expected)


def test_a_stop_string_at_the_very_start_leaves_nothing(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "Question: why")
    assert shown(tokens, tokenizer, stop_strings={"Question"}) == (STOP, "", [])
    assert run(tokens, tokenizer, stop_strings={"Question"})[:2] == (STOP, [])


def test_a_special_token_can_be_a_stop_string_or_a_part_of_one(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late<|user|> and")
    assert len(encode(tokenizer, "<|user|>")) == 1
    assert run(tokens, tokenizer, stop_strings={"<|user|>"})[:2] == (STOP, tokens[:3])
    for string, text in [("<|user|>", "It was late"), ("te<|us", "It was la"), ("er|> an", None)]:
        expected = "It was late" if text is None else text
        assert shown(tokens, tokenizer, stop_strings={string})[:2] == (STOP, expected)


def test_a_special_token_is_not_shown_where_it_is_included(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late<|user|> and")
    settings: dict[str, Any] = {"include_stop_str_in_output": True}
    for string in ("<|user|>", "late<|us", "e<|user|>"):
        assert shown(tokens, tokenizer, stop_strings={string}, **settings)[1] == "It was late"
    assert shown(tokens, tokenizer, stop_strings={"|> a"}, **settings)[1] == "It was late a"


def test_a_text_whose_last_token_completes_a_stop_string_is_cut(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late")
    settings: dict[str, Any] = {"stop_strings": {"ate"}}
    cut = (STOP, "It was l")
    assert shown(tokens, tokenizer, max_new_tokens=len(tokens), **settings)[:2] == cut
    assert shown(tokens, tokenizer, stop_token_ids={tokens[-1]}, **settings)[:2] == cut


def test_a_sequence_that_is_ended_from_outside_shows_what_was_held_back(
    tokenizer: Tokenizer,
) -> None:
    tokens = encode(tokenizer, "so a b")
    for strings, reason, text in [({"b c"}, LENGTH, "so a b"), ({"b", "a b c"}, STOP, "so a ")]:
        generation = generation_of(tokenizer, stop_strings=strings)
        append(generation, tokens)
        assert generation.finish_reason is None
        generation.end(LENGTH)
        assert generation.finish_reason == reason
        assert decoded(tokenizer, [generation], 0.0).texts == [text]


def test_text_is_held_back_only_while_it_may_become_a_stop_string(tokenizer: Tokenizer) -> None:
    tokens = letter_by_letter(tokenizer, "a cat, a can of \n")
    _, _, pieces = shown(tokens, tokenizer, stop_strings={"candle"})
    assert pieces == ["a", " ", "cat", ",", " ", "a", " ", "can ", "o", "f", " ", "\n"]


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was,世界 🎉")
    assert len(tokens) > len("It was,世界 🎉") - 4
    for strings in (set(), {"界"}, {"zzz"}):
        _, text, pieces = shown(tokens, tokenizer, stop_strings=strings)
        assert text == ("It was,世" if strings == {"界"} else "It was,世界 🎉")
        assert "\ufffd" not in text
        assert max(map(len, pieces[3:])) == 1


def test_tokens_no_stop_string_can_take_back_are_written_at_once(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late, and the wind")
    _, _, writes = run(tokens, tokenizer, stop_strings={"<stop>"})
    assert writes == [[token] for token in tokens]


def test_a_chat_goes_on_from_the_tokens_before_the_one_that_is_cut(tokenizer: Tokenizer) -> None:
    tokens = letter_by_letter(tokenizer, "It is") + encode(tokenizer, " candle") + [7]
    for strings, num_whole in [({"ndle"}, 5), ({" candle"}, 5), ({"s c"}, 4), ({"zzz"}, 7)]:
        generation = generation_of(tokenizer, stop_strings=strings)
        append(generation, tokens)
        generation.end(LENGTH)
        assert generation.checker.num_whole == num_whole


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, StreamingStatus.RUNNING),
        (False, StreamingStatus.RUNNING),
        (True, StreamingStatus.STOP),
        (StreamingStatus.CANCEL, StreamingStatus.CANCEL),
    ],
)
def test_a_streamers_answer_is_passed_on(
    tokenizer: Tokenizer, answer: StreamingStatus | bool | None, status: StreamingStatus
) -> None:
    generation = generation_of(None)
    stream = open_stream(Recorder(answer), generation, tokenizer)
    append(generation, [5])
    assert stream.advance() == status
    generation = generation_of(None)
    stream = open_stream(lambda _: answer, generation, tokenizer)
    append(generation, encode(tokenizer, "late"))
    assert stream.advance() == status


def test_a_streamer_that_stopped_gets_no_more_tokens(tokenizer: Tokenizer) -> None:
    generation = generation_of(tokenizer, stop_strings={"candle"})
    streamer = Recorder(StreamingStatus.STOP)
    stream = open_stream(streamer, generation, tokenizer)
    append(generation, letter_by_letter(tokenizer, "a c"))
    assert stream.advance() == StreamingStatus.STOP
    stream.end()
    assert [tokenizer.decode(written) for written in streamer.writes] == ["a "]
    assert streamer.num_ends == 1


def test_what_a_streamer_raises_comes_out_as_it_is(tokenizer: Tokenizer) -> None:
    def fail(text: str) -> None:
        raise ZeroDivisionError(text)

    for streamer in (fail, openvino_genai.TextStreamer(tokenizer, fail)):
        generation = generation_of(tokenizer)
        stream = open_stream(streamer, generation, tokenizer)
        append(generation, encode(tokenizer, "It was late\n"))
        with pytest.raises(ZeroDivisionError, match="It was late"):
            stream.advance()
