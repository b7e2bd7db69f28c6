"""API keys of files and of the environment, and whose a request's is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.serve.keys import KEY_VARIABLE, bearer, owner_of, read_keys


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(text)
    return path


def test_a_file_has_a_key_a_line_with_a_name_or_without(tmp_path: Path) -> None:
    path = written(tmp_path, "# ours\n\nalice:secret-1\nbob:secret-2\r\nsecret-3\n")
    keys = read_keys(path, {})
    assert owner_of("secret-1", keys) == "alice"
    assert owner_of("secret-2", keys) == "bob"
    assert owner_of("secret-4", keys) is None
    assert owner_of(None, keys) is None
    assert owner_of("", keys) is None
    assert not any(b"secret" in digest for digest in keys)

    # What belongs to a key without a name is still its own when the file has changed.
    unnamed = owner_of("secret-3", keys)
    fewer = read_keys(written(tmp_path, "secret-3\n"), {})
    assert unnamed == owner_of("secret-3", fewer) != ""
    assert "secret" not in str(unnamed)


def test_the_environment_has_one_more(tmp_path: Path) -> None:
    keys = read_keys(written(tmp_path, "alice:secret-1\n"), {KEY_VARIABLE: " secret-9 "})
    assert owner_of("secret-9", keys) == "default"
    assert owner_of("secret-1", keys) == "alice"
    assert read_keys(None, {KEY_VARIABLE: ""}) == {}


@pytest.mark.parametrize("text", ["", "# none\n", "a key with blanks\n", "alice:\n", "schlüssel\n"])
def test_what_is_not_a_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_keys(written(tmp_path, text), {})
    assert "key" in refused.value.message
    assert text.strip() == "" or text.strip() not in str(refused.value)


def test_a_key_is_sent_as_a_bearer_token() -> None:
    assert bearer("Bearer secret") == bearer("bearer  secret") == "secret"
    assert bearer("Basic secret") is bearer("Bearer ") is bearer("secret") is bearer(None) is None
