"""The bytes of a stream."""

from __future__ import annotations

import json

import pytest

from ov_kvcrush.serve.events import DONE, KEEP_ALIVE, event


def test_an_event_is_one_line_and_an_empty_one() -> None:
    body = {"text": "a\nb\r\n\u2028\u0085é😀", "none": None}
    sent = event(body)
    assert sent.startswith(b"data: {")
    assert sent.endswith(b"}\n\n")
    assert len(sent.decode().splitlines()) == 2
    assert json.loads(sent.removeprefix(b"data: ")) == body


def test_what_is_not_json_is_not_sent() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        event({"a": float("nan")})


def test_the_rest_of_a_stream_is_fixed() -> None:
    assert DONE == b"data: [DONE]\n\n"
    assert KEEP_ALIVE.startswith(b":")
    assert KEEP_ALIVE.endswith(b"\n\n")
