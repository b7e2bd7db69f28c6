"""``ov-kvcrush inspect``: what it tells of models, plans and sessions, and of what is neither."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_tokenizers  # noqa: F401  cores made from now on can read a tokenizer's graph
import pytest
from safetensors.numpy import save_file

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.cli import run
from ov_kvcrush.gate import GATE_FILE
from ov_kvcrush.model_folder import GRAPH_FILE, WEIGHTS_FILE, fingerprint
from ov_kvcrush.plan import PLAN_FILE, KVPlan
from ov_kvcrush.precisions import by_layer
from ov_kvcrush.runtime.eviction.forecast import CacheForecast
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.session_files.session_contents import read_session
from tests.support.commands import fails
from tests.support.damaged_sessions import DAMAGES, Damage
from tests.support.folders import linked
from tests.support.foreign_model import save_foreign_model
from tests.support.texts import rooms

BUDGET = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=8192)


@pytest.fixture(scope="module")
def pipe(needle_int8_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_int8_dir, kv_cache_config=BUDGET)


@pytest.fixture(scope="module")
def saved(pipe: LLMPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chat, and a document that was crushed."""
    folder = tmp_path_factory.mktemp("sessions")
    chat = pipe.chat()
    chat.ask(f"{rooms(60)} What\x1b[31m is in room 7?", max_new_tokens=5, ignore_eos=True)
    chat.ask("And in room 8?", max_new_tokens=5, ignore_eos=True)
    pipe.save_session(folder / "chat.safetensors", chat)
    document = pipe.cache_prefix(f"{rooms(60)}\n\n", "Answer briefly.")
    pipe.save_session(folder / "document.safetensors", document)
    return folder


@pytest.fixture
def never_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever compiles a model fails."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a model was compiled")

    with monkeypatch.context() as patch:
        patch.setattr(ov.Core, "compile_model", fail)
        yield


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """The lines on stdout of an inspection that succeeds, blanks in a row as one."""
    capsys.readouterr()
    assert run(["inspect", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [" ".join(line.split()) for line in out.splitlines()]


def figures(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["inspect", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("never_compiled")
class TestModel:
    def test_from_a_folder_to_all_that_is_known(
        self, needle_int8_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = shown(capsys, needle_int8_dir)
        assert lines[0] == str(needle_int8_dir)
        assert lines[1] == "Model llama, 8 layers, 12 query / 4 KV heads of 64, context 8,192"
        assert "KV cache layers 0–7: K u8, V u8" in lines
        assert "KV per token 4.75 KiB" in lines
        assert any(
            line.startswith("KV at 131,072 tokens 637.5 MB in full, 5.0 MB with a budget of 1,024")
            for line in lines
        )
        (gate,) = (line for line in lines if line.startswith("Gate correlation"))
        assert " by layer), " in gate
        assert any(line.startswith("Gate from the package's own prose, the") for line in lines)
        assert any(line.startswith("Fits in full ") for line in lines)
        assert any("nncf 3." in line for line in lines if line.startswith("Made with "))
        assert any(line.startswith("│ 7 │ ") for line in lines)

    def test_every_number_can_be_had_as_json(
        self, needle_int8_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = figures(capsys, needle_int8_dir, "--max-cache-size", "512")
        plan = KVPlan.load(needle_int8_dir)
        assert plan is not None
        assert found["kind"] == "model"
        assert found["kv_bytes_at"]["8192"] == 8192 * 4864
        assert found["kv_bytes_with_budget"]["131072"] == pytest.approx(512 * 4864, rel=0.01)
        heads = sorted((c["layer"], head) for c in found["caches"] for head in c["heads"])
        assert heads == [(layer, head) for layer in range(8) for head in range(4)]
        kept = [c["tokens"] for c in found["caches"] for _ in c["heads"]]
        assert sum(kept) == pytest.approx(512 * 32, rel=0.01)
        assert KVPlan.from_dict({name: found[name] for name in plan.to_dict()}) == plan
        memory = found["memory"]
        assert memory["weights_bytes"] == (needle_int8_dir / WEIGHTS_FILE).stat().st_size
        assert memory["users"] > memory["users_reading"] > memory["users_in_full"] > 0
        assert found["gate_bytes"] == (needle_int8_dir / GATE_FILE).stat().st_size

    def test_a_plan_alone_tells_all_but_the_gates_size(
        self, needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = shutil.copy(needle_int8_dir / PLAN_FILE, tmp_path / "plan-of-mine.json")
        found = figures(capsys, path)
        assert found["kind"] == "plan"
        assert not found["has_gate"]
        assert not found["is_beside_another_model"]
        beside = figures(capsys, needle_int8_dir / PLAN_FILE)
        assert beside["kind"] == "model"
        assert {**beside, **found} | {"memory": 0} == {**found, "memory": 0}
        assert any(line.startswith("Gate correlation") for line in shown(capsys, path))

    def test_a_plan_beside_another_model_says_so(
        self, plain_dir: Path, needle_int8_dir: Path, tmp_path: Path, capsys: Any
    ) -> None:
        folder = linked(plain_dir, tmp_path, without="config.json")
        shutil.copy(needle_int8_dir / PLAN_FILE, folder)
        lines = shown(capsys, folder / PLAN_FILE)
        (line,) = (line for line in lines if line.startswith("KV plan "))
        assert line.endswith("beside another model than its own")
        assert "was written for another model" in fails(capsys, "inspect", str(folder))

    def test_a_model_without_its_gate_says_so(
        self, needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = shown(capsys, linked(needle_int8_dir, tmp_path, without=GATE_FILE))
        assert "Gate its file is missing: ov-kvcrush calibrate --only gate" in lines

    def test_a_gate_without_a_plan_tells_of_itself(
        self, needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = shown(capsys, linked(needle_int8_dir, tmp_path, without=PLAN_FILE))
        assert "KV plan not there; ov-kvcrush calibrate makes one" in lines
        assert any(line.startswith("Gate correlation with its teacher") for line in lines)

    def test_the_picture_is_drawn(
        self, needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, beginning in (("heads.png", b"\x89PNG"), ("heads.svg", b"<?xml")):
            shown(capsys, needle_int8_dir, "--plot", tmp_path / name)
            assert (tmp_path / name).read_bytes().startswith(beginning)

    def test_a_budget_too_small_for_anything_is_refused(
        self, needle_int8_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        told = fails(capsys, "inspect", str(needle_int8_dir), "--max-cache-size", "50")
        assert "--max-cache-size 50 leaves nothing to choose" in told


class TestModelWithoutPlan:
    def test_it_is_told_what_the_engine_would_do(
        self, plain_dir: Path, capsys: pytest.CaptureFixture[str], never_compiled: None
    ) -> None:
        lines = shown(capsys, plain_dir)
        assert lines[1] == "Model llama, 2 layers, 4 query / 2 KV heads of 16, context 512"
        assert lines[2].startswith("Weights int8_asym, ")
        assert "Caches 2 for 4 KV heads: one for each layer" in lines
        found = figures(capsys, plain_dir)
        assert not found["has_plan"]
        assert found["fingerprint"] == fingerprint(plain_dir)
        told = fails(capsys, "inspect", str(plain_dir), "--plot", "heads.png")
        assert "shares of the heads" in told
        assert not Path("heads.png").exists()

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"KV_CACHE_PRECISION": "u8"},
            {"KV_CACHE_PRECISION": "f16"},
            {"KV_CACHE_PRECISION": "u8", "KEY_CACHE_PRECISION": "u4"},
            {
                "KEY_CACHE_PRECISION": "u8",
                "VALUE_CACHE_PRECISION": "u4",
                "VALUE_CACHE_GROUP_SIZE": "8",
            },
        ],
    )
    def test_its_precisions_are_those_that_are_compiled(
        self, options: dict[str, str], plain_dir: Path, tmp_path: Path, capsys: Any
    ) -> None:
        folder = with_options(plain_dir, tmp_path, options)
        found = figures(capsys, folder)
        model = PagedModel(folder)
        assert by_layer(found["precisions"]) == model.precisions
        assert found["kv_bytes_per_token"] == model.kv_bytes_per_token

    def test_precisions_that_do_not_go_together_are_told(
        self, plain_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = {"KEY_CACHE_PRECISION": "u8", "VALUE_CACHE_PRECISION": "i3"}
        told = fails(capsys, "inspect", str(with_options(plain_dir, tmp_path, options)))
        assert "cannot hold keys in u8 with values in i3" in told


def with_options(source: Path, folder: Path, options: dict[str, str]) -> Path:
    """``folder``, with the model of ``source``, whose IR carries ``options`` alone."""
    linked(source, folder, without=GRAPH_FILE)
    text = (source / GRAPH_FILE).read_text()
    begin, end = text.index("<runtime_options>"), text.index("</runtime_options>")
    carried = "".join(f'<{name} value="{value}" />' for name, value in options.items())
    (folder / GRAPH_FILE).write_text(f"{text[:begin]}<runtime_options>{carried}{text[end:]}")
    return folder


@pytest.mark.usefixtures("never_compiled")
class TestSession:
    def test_a_chat(self, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines = shown(capsys, saved / "chat.safetensors")
        assert lines[1] == "Chat 4 messages, 2 of them questions"
        assert lines[3] == "Last question And in room 8?"
        (tokens,) = (line for line in lines if line.startswith("Tokens "))
        assert " read, " in tokens
        assert "Budget 96 tokens and 128 more between cuts, snapkv with " in " ".join(lines)
        assert "Stored as layers 0–7: K u8, V u8" in lines

    def test_a_document(self, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = saved / "document.safetensors"
        lines = shown(capsys, path)
        assert lines[1] == f"Document {len(rooms(60)) + 2:,} characters"
        assert "System message Answer briefly." in lines
        found = figures(capsys, path)
        assert (found["kind"], found["saved"]) == ("session", "prefix")
        assert found["file_bytes"] == path.stat().st_size > found["kv_bytes"] > 0
        assert found["cuts"][-1]["budget"] == 96
        assert len(found["kept_by_head"]) == 8

    def test_what_was_foretold_of_a_model_is_what_is_kept(
        self, saved: Path, needle_int8_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        contents = read_session(saved / "document.safetensors")
        plan = KVPlan.load(needle_int8_dir)
        assert plan is not None
        assert contents.state is not None
        forecast = CacheForecast(BUDGET, plan.layers, plan.precisions, plan.head_shares)
        assert contents.cache_layers == forecast.cache_layers
        kept = [layer.length for layer in contents.state.layers]
        assert kept == forecast.held(contents.state.num_cached)
        assert contents.kv_bytes <= forecast.most_bytes()

    def test_what_a_terminal_would_obey_is_not_printed(
        self, saved: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["inspect", str(saved / "chat.safetensors")]) == 0
        assert "\x1b" not in capsys.readouterr().out

    def test_whether_a_model_can_go_on_from_it(
        self, saved: Path, needle_int8_dir: Path, plain_dir: Path, tmp_path: Path, capsys: Any
    ) -> None:
        path = saved / "chat.safetensors"
        lines = shown(capsys, path, "--model", needle_int8_dir)
        assert f"{needle_int8_dir} can go on from it" in lines
        assert figures(capsys, path, "--model", needle_int8_dir)["model"]["fits"]
        other = figures(capsys, path, "--model", plain_dir)["model"]
        assert other["reason"] == "it was saved with another model"
        folder = linked(needle_int8_dir, tmp_path, without=PLAN_FILE)
        plan = KVPlan.load(needle_int8_dir)
        assert plan is not None
        stored = plan.to_dict()
        stored["head_shares"] = [[1.0] * 4] * 8
        (folder / PLAN_FILE).write_text(json.dumps(stored))
        even = figures(capsys, path, "--model", folder)["model"]
        assert not even["fits"]
        assert "other budgets for KV heads" in even["reason"]

    def test_the_picture_is_drawn(
        self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown(capsys, saved / "chat.safetensors", "--plot", tmp_path / "kept.png")
        assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")

    def test_a_chat_without_its_cache(
        self, pipe: LLMPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        chat = pipe.chat()
        chat.ask("And in room 8?", max_new_tokens=3)
        chat.session.sequence = None
        path = tmp_path / "chat.safetensors"
        pipe.save_session(path, chat)
        assert any(line.startswith("Cache not saved") for line in shown(capsys, path))
        assert figures(capsys, path)["num_kept"] == 0
        told = fails(capsys, "inspect", str(path), "--plot", str(tmp_path / "a.png"))
        assert "holds no cache" in told

    @pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
    def test_damage_is_found(
        self,
        damage: Damage,
        message: str,
        saved: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = tmp_path / "chat.safetensors"
        shutil.copy(saved / "chat.safetensors", path)
        damage(path)
        if message == "was saved with another model":  # it says of itself what it likes
            assert run(["inspect", str(path)]) in (0, 2)
            assert "unexpected" not in capsys.readouterr().err
            return
        assert fails(capsys, "inspect", str(path))


class TestNeither:
    def test_what_is_something_else_is_told_in_a_line(
        self, needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found: dict[str, tuple[str, str]] = {
            "nothing.json": ("", "no such file or folder"),
            "empty.json": ("", "is not valid JSON"),
            "empty": ("", "is an empty file"),
            "notes.txt": ("Buy milk.", "neither a KV plan nor a session file"),
            "list.json": ("[1, 2]", "not a KV plan"),
            "half.json": ('{"version": 5, "lay', "is not valid JSON"),
            "config.json": ('{"model_type": "llama"}', "not a KV plan"),
            "chat.json": ('{"format": "ov-kvcrush-conversation", "version": 1}', "not a KV plan"),
            "newer.json": ('{"version": 99, "layers": []}', "format version 99"),
            "text.safetensors": ("Hello", "not a safetensors file"),
            "model.gguf": ("GGUF and more", "is a GGUF file"),
            "openvino_model.xml": ("<net/>", "is one of the files of a model"),
            "openvino_tokenizer.bin": ("\0\0", "is one of the files of a model"),
            GATE_FILE: ("", "is the gate of a model"),
        }
        for name, (content, message) in found.items():
            if name != "nothing.json":
                (tmp_path / name).write_text(content)
            assert message in fails(capsys, "inspect", str(tmp_path / name)), name

    def test_weights_and_pictures_and_pipes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
        told = fails(capsys, "inspect", str(tmp_path / "model.safetensors"))
        assert "but not a saved session" in told
        (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        assert "neither a KV plan nor" in fails(capsys, "inspect", str(tmp_path / "picture"))
        os.mkfifo(tmp_path / "pipe")
        assert "is not a file or a folder" in fails(capsys, "inspect", str(tmp_path / "pipe"))
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        assert "cannot be read" in fails(capsys, "inspect", str(tmp_path / "loop"))
        assert "cannot be read" in fails(capsys, "inspect", "x" * 300)

    def test_folders_of_something_else(
        self, needle_source_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "holds no OpenVINO model" in fails(capsys, "inspect", str(needle_source_dir))
        (tmp_path / GRAPH_FILE).write_text("<net/>")
        assert "cannot be read" in fails(capsys, "inspect", str(tmp_path))
        (tmp_path / GRAPH_FILE).write_text("no XML")
        assert "is not XML" in fails(capsys, "inspect", str(tmp_path))

    def test_a_model_that_generates_no_text(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_foreign_model(tmp_path)
        assert "is not a text-generation model" in fails(capsys, "inspect", str(tmp_path))

    @pytest.mark.parametrize("name", [PLAN_FILE, GATE_FILE, WEIGHTS_FILE, GRAPH_FILE])
    @pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
    def test_a_model_of_which_a_file_is_cut_short(
        self, name: str, part: float, needle_int8_dir: Path, tmp_path: Path, capsys: Any
    ) -> None:
        content = (needle_int8_dir / name).read_bytes()
        folder = linked(needle_int8_dir, tmp_path, without=name)
        (folder / name).write_bytes(content[: int(part * len(content))])
        assert fails(capsys, "inspect", str(folder))

    @pytest.mark.parametrize("name", [GRAPH_FILE, WEIGHTS_FILE])
    @pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
    def test_a_model_without_plan_of_which_a_file_is_cut_short(
        self, name: str, part: float, plain_dir: Path, tmp_path: Path, capsys: Any
    ) -> None:
        content = (plain_dir / name).read_bytes()
        folder = linked(plain_dir, tmp_path, without=name)
        (folder / name).write_bytes(content[: int(part * len(content))])
        assert fails(capsys, "inspect", str(folder))

    def test_flags_that_do_not_go_together(
        self, needle_int8_dir: Path, saved: Path, tmp_path: Path, capsys: Any
    ) -> None:
        model, session = str(needle_int8_dir), str(saved / "chat.safetensors")
        assert "--model is for sessions" in fails(capsys, "inspect", model, "--model", model)
        told = fails(capsys, "inspect", session, "--max-cache-size", "512")
        assert "--max-cache-size is not for sessions" in told
        told = fails(capsys, "inspect", model, "--plot", str(tmp_path / "picture.txt"))
        assert "is not the name of a picture" in told
        told = fails(capsys, "inspect", model, "--plot", str(tmp_path / "no" / "picture.png"))
        assert "no such folder" in told


WEIRD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e300,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    {},
    [None],
)


def _leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in ``value``, of lists the first and the last."""
    yield at
    if isinstance(value, dict):
        for name in value:
            yield from _leaves(value[name], (*at, name))
    elif isinstance(value, list) and value:
        for place in {0, len(value) - 1}:
            yield from _leaves(value[place], (*at, place))


def test_no_plan_is_so_odd_that_it_is_not_told_in_a_line(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads((needle_int8_dir / PLAN_FILE).read_text())
    calibration = {
        "text": {"source": "x"},
        "passages": [10],
        "target": {},
        "precisions": [{"key": "u8", "value": "u8"}],
        "harms": [[0.0]] * 8,
        "predicted_kl": [0.0] * 8,
        "measured_kl": [0.0] * 8,
        "outputs": {"plan": {"perplexity": 1.0, "kl": 0.0, "bytes_per_token": 1.0}},
    }
    basis = {"method": "x", "text": {}, "passages": [1], "predicted_cost": [0.5] * 8}
    stored |= {"calibration": calibration, "value_basis": basis}
    path = tmp_path / "plan.json"
    outcomes = {0: 0, 2: 0}
    for place in _leaves(stored):
        for odd in WEIRD:
            changed: Any = json.loads(json.dumps(stored))
            if place:
                inner = changed
                for step in place[:-1]:
                    inner = inner[step]
                inner[place[-1]] = odd
            else:
                changed = odd
            path.write_text(json.dumps(changed))
            code = run(["inspect", str(path), "--json"] if odd else ["inspect", str(path)])
            assert code in outcomes, (place, odd, capsys.readouterr().err)
            outcomes[code] += 1
            capsys.readouterr()
    assert outcomes[0] > 20
    assert outcomes[2] > 200
