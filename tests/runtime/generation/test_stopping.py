"""When a sequence ends, what a stop string takes back, and what a streamer sees meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino_genai
import pytest
from openvino_genai import GenerationConfig, GenerationFinishReason, StreamingStatus, Tokenizer

from ov_kvcrush.errors import PromptError
from ov_kvcrush.pipeline.streaming import TokenStream
from ov_kvcrush.runtime.generation.stopping import StopChecker

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


def run(
    tokens: list[int], tokenizer: Tokenizer | None = None, prompt_length: int = 4, **settings: Any
) -> tuple[GenerationFinishReason | None, list[int], list[list[int]]]:
    """Push ``tokens`` until finished: the reason, the tokens that stay, what was streamed."""
    checker = StopChecker(GenerationConfig(**settings), tokenizer, prompt_length)
    streamer = Recorder()
    stream = TokenStream(streamer, checker)
    reason = None
    for token in tokens:
        reason = checker.push(token)
        stream.advance()
        if reason is not None:
            break
    stream.end()
    assert streamer.num_ends == 1
    assert [token for written in streamer.writes for token in written] == checker.tokens
    return reason, checker.tokens, streamer.writes


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


def test_a_stop_string_is_taken_back_and_no_part_of_it_shown(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late.\nQuestion: why")
    reason, kept, writes = run(tokens, tokenizer, stop_strings={"Question:"})
    assert reason == STOP
    assert tokenizer.decode(kept) == "It was late.\n"
    # "\n" is held back because it could have gone with the stop string; it is shown at the end.
    assert [tokenizer.decode(written) for written in writes][-1] == "\n"


def test_a_stop_string_can_be_included(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late.\nQuestion: why")
    settings: dict[str, Any] = {"stop_strings": {"Question:"}, "include_stop_str_in_output": True}
    reason, kept, _ = run(tokens, tokenizer, **settings)
    assert (reason, tokenizer.decode(kept)) == (STOP, "It was late.\nQuestion:")


def test_a_stop_string_is_found_however_it_is_spelled(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was") + letter_by_letter(tokenizer, " the candle of")
    assert len(encode(tokenizer, " candle")) == 1  # openvino_genai's window would be one token
    reason, kept, _ = run(tokens, tokenizer, stop_strings={" candle"})
    assert (reason, tokenizer.decode(kept)) == (STOP, "It was the")


def test_a_stop_string_that_begins_inside_a_token_leaves_the_token_whole(
    tokenizer: Tokenizer,
) -> None:
    tokens = encode(tokenizer, "It was a candle, and")
    reason, kept, _ = run(tokens, tokenizer, stop_strings={"dle, a"})
    assert (reason, tokenizer.decode(kept)) == (STOP, "It was a candle")


def test_a_stop_string_at_the_very_start_leaves_nothing(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "Question: why")
    assert run(tokens, tokenizer, stop_strings={"Question"})[:2] == (STOP, [])


def test_a_stop_string_with_letters_of_several_tokens_is_found(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was,世界 and")
    reason, kept, writes = run(tokens, tokenizer, stop_strings={"世界"})
    assert (reason, tokenizer.decode(kept)) == (STOP, "It was,")
    assert "\ufffd" not in "".join(tokenizer.decode(written) for written in writes)


def test_a_special_token_can_be_a_stop_string(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late<|user|> and")
    assert run(tokens, tokenizer, stop_strings={"<|user|>"})[:2] == (STOP, tokens[:3])


def test_a_text_that_reaches_its_length_is_not_cut(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late")
    settings: dict[str, Any] = {"stop_strings": {"late"}, "max_new_tokens": len(tokens)}
    assert run(tokens, tokenizer, **settings)[:2] == (LENGTH, tokens)


def test_a_false_start_is_shown_once_it_is_one(tokenizer: Tokenizer) -> None:
    tokens = letter_by_letter(tokenizer, "a cat, a can")
    reason, kept, writes = run(tokens, tokenizer, stop_strings={"candle"})
    assert (reason, kept) == (None, tokens)
    shown = [tokenizer.decode(written) for written in writes]
    assert shown == ["a", " cat", ",", " a", " can"]


def test_a_text_no_stop_string_can_begin_in_is_shown_at_once(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "It was late, and the wind")
    _, _, writes = run(tokens, tokenizer, stop_strings={"<stop>"})
    assert writes == [[token] for token in tokens]


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
    answer: StreamingStatus | bool | None, status: StreamingStatus
) -> None:
    checker = StopChecker(GenerationConfig(), None, 1)
    stream = TokenStream(Recorder(answer), checker)
    checker.push(5)
    assert stream.advance() == status


def test_a_streamer_that_stopped_gets_no_more_tokens(tokenizer: Tokenizer) -> None:
    checker = StopChecker(GenerationConfig(stop_strings={"candle"}), tokenizer, 1)
    streamer = Recorder(StreamingStatus.STOP)
    stream = TokenStream(streamer, checker)
    for token in letter_by_letter(tokenizer, "a c"):
        checker.push(token)
    assert stream.advance() == StreamingStatus.STOP
    stream.end()
    assert [tokenizer.decode(written) for written in streamer.writes] == ["a"]
    assert streamer.num_ends == 1


def test_what_a_streamer_raises_comes_out_as_it_is(tokenizer: Tokenizer) -> None:
    def fail(text: str) -> None:
        raise ZeroDivisionError(text)

    checker = StopChecker(GenerationConfig(), tokenizer, 1)
    stream = TokenStream(openvino_genai.TextStreamer(tokenizer, fail), checker)
    for token in encode(tokenizer, "It was late\n"):
        checker.push(token)
    with pytest.raises(ZeroDivisionError, match="It was late"):
        stream.advance()
