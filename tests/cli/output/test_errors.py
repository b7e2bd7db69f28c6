"""What a command says on stderr beside its output."""

from __future__ import annotations

import logging
import warnings

import pytest

from ov_kvcrush.cli.output.errors import notes_on_stderr, print_error
from ov_kvcrush.errors import OVKVCrushWarning


def test_warnings_and_what_is_logged_are_notes_of_one_line_each_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with notes_on_stderr():
        for text in ("first", "second", "first"):
            warnings.warn(text, OVKVCrushWarning, stacklevel=1)
        logging.getLogger("ov_kvcrush").warning("third")
    assert capsys.readouterr().err == "note: first\nnote: second\nnote: third\n"


def test_a_message_is_one_line_whatever_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("no such folder: a\nb", "Give another one.")
    assert capsys.readouterr().err == "error: no such folder: a\\nb\nGive another one.\n"


def test_others_warnings_and_what_is_logged_later_stay_as_they_are(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(UserWarning, match="theirs"), notes_on_stderr():
        warnings.warn("theirs", UserWarning, stacklevel=1)
    logging.getLogger("ov_kvcrush").warning("later")
    assert capsys.readouterr().err == ""
    assert "later" in caplog.text
