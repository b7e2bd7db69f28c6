"""What is shown of texts that are long or hold what is not to be seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.evaluation.reporting.shown_text import one_line, printable, shortened

ANY_TEXT = st.text(st.characters(), max_size=60)


def test_control_characters_and_halves_of_characters_are_spelled_out() -> None:
    assert printable("a\x00b\x1b[31m\x9f") == "a\\x00b\\x1b[31m\\x9f"
    assert printable("\ud83d and \U0001f600") == "\\ud83d and \U0001f600"
    # It would turn the text behind it around.
    assert printable("user\u202egnp.exe") == "user\\u202egnp.exe"
    assert printable("two\r\nlines\tand é 漢") == "two\nlines\tand é 漢"


def test_one_line_has_single_spaces() -> None:
    assert one_line("  a\n\n b\t\x07 ") == "a b \\x07"


def test_a_long_text_is_its_beginning_and_its_end() -> None:
    text = shortened("a" * 50_000 + "b" * 50_000, 30)
    assert text == "a" * 20 + " […99,970 characters…] " + "b" * 10
    assert shortened("a" * 30, 30) == "a" * 30


@given(ANY_TEXT)
def test_what_is_shown_is_text_that_can_be_written(text: str) -> None:
    for result in (printable(text), one_line(text), shortened(text, 10)):
        result.encode()
        assert all(character in "\n\t" or character >= " " for character in result)
        assert printable(result) == result
