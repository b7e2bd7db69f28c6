"""``ov-kvcrush chat`` in a pipe, and with mistakes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.cli import run
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.runtime.interface import ENGINES
from tests.support.commands import fails, stats
from tests.support.folders import linked
from tests.support.model_factory import retemplated
from tests.support.texts import rooms

COMMAND = [sys.executable, "-m", "ov_kvcrush", "chat"]
ENDLESS = ["--ignore-eos", "--max-new-tokens", "4000"]
TEXT = rooms(40)
# ------------------------------------------------------------------ in a pipe


def test_a_piped_prompt_gives_the_answer_alone(needle_int8_dir: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(needle_int8_dir), "--read", "-", "--prompt", "And room 5?"],
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
    assert done.stdout.count("\n") == 1
    assert done.stdout.endswith("\n")
    assert stats(done.stderr)["prompt"] > 300  # TEXT and the question
    assert "Loading" not in done.stderr


def test_json_tells_answer_cost_and_settings(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], no_stdin: None
) -> None:
    arguments = ["--json", "--prompt", TEXT, "--max-cache-size", "160", "--max-new-tokens", "2"]
    arguments += ["--ignore-eos", "--decode-precision", "f32"]
    assert run(["chat", str(needle_int8_dir), *arguments]) == 0
    out, err = capsys.readouterr()
    turn = json.loads(out)
    assert turn.keys() == {"answer", "finish_reason", "metrics", "generation_config", "config"}
    assert turn["finish_reason"] == "length"
    assert turn["metrics"]["num_generated_tokens"] == 2
    assert turn["metrics"]["num_evicted_tokens"] == turn["metrics"]["num_prompt_tokens"] - 160
    assert turn["generation_config"]["ignore_eos"] is True
    assert turn["config"]["kv_cache_config"]["max_cache_size"] == 160
    assert turn["config"]["decode_precision"] == "f32"
    assert err == ""


def test_a_given_prompt_never_reads_stdin(needle_int8_dir: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, str(needle_int8_dir), "--prompt", "Hello", "--max-new-tokens", "2"],
        stdin=subprocess.PIPE,  # that nobody writes to or closes
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ([], "piped"),
        (["--prompt", "-"], "piped"),
        (["--prompt", "given"], "given"),
        (["--read", "-", "--prompt", "given"], "piped\n\ngiven"),
        (["--read", "FILE"], "read\n\npiped"),
        (["--read", "FILE", "--prompt", "-"], "read\n\npiped"),
        (["--read", "FILE", "--read", "-", "--prompt", "given"], "read\n\npiped\n\ngiven"),
    ],
)
def test_what_is_asked_is_what_is_read_and_then_the_prompt(
    shared: LLMPipeline,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    asked: str,
) -> None:
    (tmp_path / "FILE").write_text("read\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\n"))
    chat = Chat(shared.loaded_model)
    monkeypatch.setattr(shared, "chat", lambda *_: chat)
    assert run(["chat", "model", *arguments, "--max-new-tokens", "1"]) == 0
    assert chat.messages[0]["content"] == asked


def test_json_is_utf8_with_the_characters_themselves(needle_int8_dir: Path) -> None:
    arguments = ["--json", "--prompt", "Hi", "--max-new-tokens", "1", "--stop-strings", "naïve 🙂"]
    done = subprocess.run(
        [*COMMAND, str(needle_int8_dir), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        check=True,
    )
    assert json.loads(done.stdout)["generation_config"]["stop_strings"] == ["naïve 🙂"]
    assert "naïve 🙂".encode() in done.stdout


def test_what_the_models_own_settings_ask_for_in_vain_is_one_line(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_stdin: None
) -> None:
    folder = linked(needle_int8_dir, tmp_path, without="generation_config.json")
    settings = folder / "generation_config.json"
    settings.write_text('{"num_beams": 4, "no_repeat_ngram_size": 3}')
    arguments = ["--json", "--prompt", "Hello", "--max-new-tokens", "2"]
    assert run(["chat", str(folder), *arguments]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["answer"]
    (line,) = err.splitlines()
    assert line.startswith(f"note: {settings}: left out: num_beams is 4")


def test_ctrl_c_in_a_pipe_is_130(needle_int8_dir: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, str(needle_int8_dir), *ENDLESS, "--prompt", "Hello"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_reader_that_leaves_early_ends_the_answer_quietly(needle_int8_dir: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, str(needle_int8_dir), *ENDLESS, "--prompt", "Hello"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5)
        process.stdout.close()
        assert process.wait(60) == 141  # as SIGPIPE would have it
        assert process.stderr.read() == ""


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to answer: stdin is empty"),
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "-"], "nothing to answer: stdin is empty"),
        (["--read", "-", "--prompt", "hi"], "what is piped in is empty"),
        (["--read", "-"], "can be read once only"),
        (["--read", "-", "--read", "-", "--prompt", "hi"], "can be read once only"),
        (["--read", "nothing", "--prompt", "hi"], "cannot read nothing"),
        (["gpx", "--prompt", "hi"], "'gpx' is not a device of this machine"),
        (["What is it?", "--prompt", "hi"], "A question stands behind --prompt."),
        (["--prompt", "hi", "--max-cache-size", "90"], "leaves nothing to choose"),
        (["--prompt", "hi", "--max-cash-size", "90"], "Did you mean '--max-cache-size'?"),
        (["--prompt", "hi", "--anchor", "mast"], "'mean'"),
        (["--prompt", "hi", "--engine", "pages"], "Did you mean 'paged'?"),
        (["--prompt", "hi", "--property", "FOO"], "'FOO' is not KEY=VALUE"),
        (["--prompt", "hi", "--property", "FOO=1"], "'FOO' is not a property"),
        (["--prompt", "hi", "--top-k", "-1"], "--top-k is -1"),
        (["--prompt", TEXT, "--pool-size", "96"], "the pool holds 96 tokens"),
    ],
)
def test_a_mistake_is_one_line_a_hint_and_exit_code_2(
    needle_int8_dir: Path,
    capsys: pytest.CaptureFixture[str],
    no_stdin: None,
    arguments: list[str],
    message: str,
) -> None:
    assert message in fails(capsys, "chat", str(needle_int8_dir), *arguments)


def test_a_missing_and_a_foreign_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_stdin: None
) -> None:
    missing = str(tmp_path / "nothing")
    assert "no such model folder" in fails(capsys, "chat", missing, "--prompt", "hi")
    assert "holds no OpenVINO model" in fails(capsys, "chat", str(tmp_path), "--prompt", "hi")


def test_piped_bytes_that_are_not_text(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "not text in UTF-8" in fails(capsys, "chat", str(needle_int8_dir))


def test_json_is_not_for_a_conversation(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert "--json is for one answer" in fails(capsys, "chat", str(needle_int8_dir), "--json")


def test_help_names_every_engine_and_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "--help"]) == 0
    text = capsys.readouterr().out
    assert "|".join(ENGINES) in text
    assert "Examples:" in text


# ------------------------------------------------------------------ chat templates


@pytest.fixture
def base(needle_int8_dir: Path, tmp_path: Path) -> str:
    """A model without a chat template."""
    return str(retemplated(tmp_path, needle_int8_dir, None))


def test_a_model_without_a_template_continues_what_it_is_given(
    base: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon a time"))
    assert run(["chat", base, "--max-new-tokens", "4", "--ignore-eos"]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert err.startswith("The model has no chat template: the prompt is read as it is")
    assert stats(err)["prompt"] < 10


@pytest.mark.usefixtures("no_stdin")
def test_a_model_without_a_template_holds_no_conversation(
    base: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    session = str(tmp_path / "chat.safetensors")
    for more in (["--system", "Be brief."], ["--session", session]):
        err = fails(capsys, "chat", base, "--prompt", "Hello", *more)
        assert "the model has no chat template" in err
        assert "chat_template.jinja" in err


@pytest.mark.usefixtures("no_stdin")
def test_a_model_without_a_template_continues_behind_a_document(
    base: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, crushed = tmp_path / "rooms.txt", str(tmp_path / "rooms.safetensors")
    text.write_text(TEXT)
    budget = ["--max-cache-size", "160"]
    assert run(["crush", base, str(text), "-o", crushed, *budget]) == 0
    assert "--prompt QUESTION" in capsys.readouterr().out
    asked = ["--session", crushed, "--prompt", "Room 5 is", "--max-new-tokens", "2"]
    assert run(["chat", base, *asked, *budget]) == 0
    assert stats(capsys.readouterr().err)["reused"] > 300


@pytest.mark.usefixtures("no_stdin")
def test_a_broken_template_is_told_in_a_line(
    needle_int8_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    template = "{% for m in messages %}\n    {% set offset = 1 %}\n{{ m.x.y }}{% endfor %}"
    folder = str(retemplated(tmp_path, needle_int8_dir, template))
    err = fails(capfd, "chat", folder, "--prompt", "Hello")
    assert "does not render this conversation" in err


@pytest.mark.usefixtures("no_stdin")
def test_what_a_message_spells_is_text_unless_asked(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompt_tokens(*more: str) -> int:
        prompt = ["--prompt", "a<|eos|>b", "--max-new-tokens", "1"]
        assert run(["chat", str(needle_int8_dir), *prompt, *more]) == 0
        return stats(capsys.readouterr().err)["prompt"]

    assert prompt_tokens("--parse-special") == 6
    assert prompt_tokens() > 8


# ------------------------------------------------------------------ how an answer is generated


def answer_and_settings(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[str, dict[str, Any]]:
    capsys.readouterr()
    assert run(["chat", "model", "--json", "--prompt", "Tell me", *arguments]) == 0
    turn = json.loads(capsys.readouterr().out)
    return turn["answer"], turn["generation_config"]


def test_a_temperature_without_a_seed_draws_one_that_gives_the_same_answer_again(
    shared: LLMPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = ["--temperature", "2", "--ignore-eos", "--max-new-tokens", "12"]
    answer, settings = answer_and_settings(capsys, *drawing)
    other, others = answer_and_settings(capsys, *drawing)
    assert settings["do_sample"]
    assert settings["rng_seed"] != others["rng_seed"]
    assert answer != other
    seed = str(settings["rng_seed"])
    assert answer_and_settings(capsys, *drawing, "--rng-seed", seed) == (answer, settings)


def test_a_temperature_of_0_is_greedy(
    shared: LLMPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy, _ = answer_and_settings(capsys, "--max-new-tokens", "12")
    answer, settings = answer_and_settings(capsys, "--max-new-tokens", "12", "--temperature", "0")
    assert answer == greedy
    assert not settings["do_sample"]


def test_an_empty_answer_is_told_beside_it(
    shared: LLMPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, _ = answer_and_settings(capsys, "--max-new-tokens", "12")
    arguments = ["--prompt", "Tell me", "--stop-strings", answer[0]]
    assert run(["chat", "model", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out == "\n"
    assert "The answer is empty" in err
