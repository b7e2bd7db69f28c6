"""Every way we know in which a session file can be wrong: on the disk, and in what it says.

Those of the second kind have a digest that is right: what the digest lets through is checked too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from ov_kvcrush.runtime.session_files.tensor_file import DIGEST, write_tensors

Tensors = dict[str, NDArray[Any]]
Damage = Callable[[Path], object]


def _bytes(change: Callable[[bytearray], object]) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        changed = change(content)
        path.write_bytes(changed if isinstance(changed, bytes | bytearray) else content)

    return damage


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _cut(share: float) -> Damage:
    return _bytes(lambda content: content[: int(share * len(content))])


def _header_end(content: bytearray) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _flip(content: bytearray, place: int) -> None:
    content[place] ^= 1


def _flip_in_header(content: bytearray) -> None:
    _flip(content, content.index(b"rewind_floor") + 17)


def signed(change: Callable[[dict[str, str], dict[str, Any], Tensors], object]) -> Damage:
    """Damage that changes metadata, their content and tensors, and writes the digest of that."""

    def damage(path: Path) -> None:
        tensors = load_file(path)
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call]
            metadata = dict(file.metadata())
        del metadata[DIGEST]
        content = json.loads(metadata.get("content", "{}"))
        change(metadata, content, tensors)
        if "content" in metadata and metadata["content"] != "[":
            metadata["content"] = json.dumps(content)
        with path.open("wb") as stream:
            sources = {name: partial(np.asarray, array) for name, array in tensors.items()}
            write_tensors(stream, metadata, sources)

    return damage


def _tensor(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Damage:
    return signed(lambda _, __, tensors: tensors.update({name: change(tensors[name].copy())}))


def _state(**changes: Any) -> Damage:
    return signed(lambda _, content, __: content["state"].update(changes))


def _identity(**changes: Any) -> Damage:
    return signed(lambda _, content, __: content["identity"].update(changes))


def _groups(change: Callable[[list[Any]], object]) -> Damage:
    """Of KV heads, ``[[layer, [heads]], …]`` in the order of the file's tensors."""
    return signed(lambda _, content, __: change(content["cache_layers"]))


def _put(place: Any, value: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[place] = value
        return array

    return change


def _swap(array: NDArray[Any]) -> NDArray[Any]:
    array[:, [3, 4]] = array[:, [4, 3]]
    return array


def _reverse(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array[:, ::-1])


def _u4(_: Any, content: dict[str, Any], __: Any) -> None:
    for precision in content["identity"]["precisions"].values():
        precision["value"] = "u4"
    content["identity"]["stored_as"] = "keys in u8 and values in u4"


ON_DISK: dict[str, tuple[Damage, str]] = {
    "empty": (_cut(0), "cut short, or not a safetensors file"),
    "four bytes": (_bytes(lambda content: content[:4]), "cut short, or not a safetensors file"),
    "half of the header": (
        _bytes(lambda content: content[: _header_end(content) // 2]),
        "cut short, or not a safetensors file",
    ),
    "the header alone": (
        _bytes(lambda content: content[: _header_end(content)]),
        "cut short, or not a safetensors file",
    ),
    "half": (_cut(0.5), "cut short, or not a safetensors file"),
    "all but a byte": (
        _bytes(lambda content: content[:-1]),
        "cut short, or not a safetensors file",
    ),
    "a byte more": (_bytes(lambda content: content + b"x"), "cut short, or not a safetensors file"),
    "garbage for a header": (
        _bytes(lambda content: content[:8] + b"\xff" * 64 + content[72:]),
        "cut short, or not a safetensors file",
    ),
    "a header longer than the file": (
        _bytes(lambda content: b"\xff" * 8 + content[8:]),
        "cut short, or not a safetensors file",
    ),
    "a bit of the metadata": (_bytes(_flip_in_header), "it was altered"),
    "a bit of the tokens": (
        _bytes(lambda content: _flip(content, _header_end(content) + 8)),
        "it was altered",
    ),
    "a bit of the pages": (_bytes(lambda content: _flip(content, -100)), "it was altered"),
    "a conversation in JSON": (
        lambda path: path.write_text('{"format": "ov-kvcrush-conversation", "version": 1}'),
        "cut short, or not a safetensors file",
    ),
    "a text": (
        lambda path: path.write_text("Hello\n" * 100),
        "cut short, or not a safetensors file",
    ),
    "a folder": (_make_folder, "it is not a file"),
    "nothing": (lambda path: path.unlink(), "No such file"),
}

IN_CONTENT: dict[str, tuple[Damage, str]] = {
    "another format": (
        signed(lambda metadata, _, __: metadata.update(format="pt")),
        "not a saved session",
    ),
    "no metadata": (signed(lambda metadata, _, __: metadata.clear()), "not a saved session"),
    "a newer version": (
        signed(lambda metadata, _, __: metadata.update(version="4")),
        "has format version 4; this release reads 3",
    ),
    "metadata that is no JSON": (
        signed(lambda metadata, _, __: metadata.update(content="[")),
        "its metadata is not JSON",
    ),
    "another model": (_identity(model="0" * 64), "was saved with another model"),
    "other layers": (_identity(layers=[]), "was saved with another model"),
    "another precision": (signed(_u4), "holds keys in u8 and values in u4, and this model"),
    "no identity": (
        signed(lambda _, content, __: content.pop("identity")),
        "does not say which model",
    ),
    "a state that is a list": (
        signed(lambda _, content, __: content.update(state=[1])),
        "its description of the cache is malformed",
    ),
    "no count": (
        signed(lambda _, content, __: content["state"].pop("num_cached")),
        "its description of the cache is malformed",
    ),
    "a count that is a text": (_state(num_cached="12"), "its token counts are not whole numbers"),
    "more cached than there are": (_state(num_cached=10**6), "cannot be cached"),
    "nothing cached": (_state(num_cached=0, rewind_floor=0), "cannot be cached"),
    "a floor above it": (_state(rewind_floor=10**5), "cannot be cached"),
    "a floor that is too low": (_state(rewind_floor=1), "does not hold the last"),
    "cuts that are none": (
        _state(cuts=[{"num_cached": -1, "budget": 5, "reads_on": False}]),
        "its list of cuts is malformed",
    ),
    "cuts with other fields": (_state(cuts=[{"at": 3}]), "malformed"),
    "attention that is not there": (_state(is_accumulated=True), "no tensor layers.0.attention"),
    "no window where there is one": (
        _state(has_window=False),
        "a tensor layers.0.queries that does not belong",
    ),
    "a token that does not exist": (_tensor("tokens", _put(3, 10**9)), "not below 5120"),
    "a token below 0": (_tensor("tokens", _put(3, -1)), "not below 5120"),
    "tokens of another type": (
        _tensor("tokens", lambda a: a.astype(np.int32)),
        "tokens is int32",
    ),
    "a tensor that is missing": (
        signed(lambda _, __, tensors: tensors.pop("layers.2.slots")),
        "it has no tensor layers.2.slots",
    ),
    "pages that are missing": (
        signed(lambda _, __, tensors: tensors.pop("layers.7.values")),
        "it has no tensor layers.7.values",
    ),
    "a tensor too many": (
        signed(lambda _, __, tensors: tensors.update(x=np.zeros(3, np.uint8))),
        "a tensor x that does not belong",
    ),
    "a layer too many": (
        signed(lambda _, __, t: t.update({"layers.99.keys": t["layers.7.keys"]})),
        "a tensor layers.99.keys that does not belong",
    ),
    "a page too few": (
        _tensor("layers.4.keys", lambda a: a[:-1].copy()),
        "layers.4.keys is uint8",
    ),
    "pages of another shape": (
        _tensor("layers.4.values", lambda a: a.reshape(len(a), -1)),
        "layers.4.values is uint8",
    ),
    "pages of another type": (
        _tensor("layers.4.values", lambda a: a.view(np.float32)),
        "layers.4.values is float32",
    ),
    "positions out of order": (_tensor("layers.1.positions", _swap), "are not ascending"),
    "positions backwards": (_tensor("layers.1.positions", _reverse), "are not ascending"),
    "a position below 0": (_tensor("layers.1.positions", _put((0, 0), -1)), "are not ascending"),
    "a position twice": (_tensor("layers.1.positions", _put((0, 1), 0)), "are not ascending"),
    "a position past the end": (
        _tensor("layers.1.positions", _put((0, -1), 10**6)),
        "are not ascending",
    ),
    "positions of too few heads": (
        _tensor("layers.1.positions", lambda a: a[:-1].copy()),
        "layers.1.positions is int32",
    ),
    "a slot twice": (_tensor("layers.3.slots", _put((-1, [5, 6]), 0)), "each once"),
    "a slot past the end": (_tensor("layers.3.slots", _put((-1, 5), 10**6)), "each once"),
    "the newest slots out of order": (
        _tensor("layers.3.slots", _reverse),
        "does not hold the last",
    ),
    "slots of another length": (
        _tensor("layers.3.slots", lambda a: a[:, :-1].copy()),
        "layers.3.slots is int32",
    ),
    "queries that are no numbers": (
        _tensor("layers.6.queries", _put((0, 0, 0), np.nan)),
        "not finite",
    ),
    "queries of another head size": (
        _tensor("layers.6.queries", lambda a: a[:, :, :-1].copy()),
        "layers.6.queries is float32",
    ),
    "a window of another size": (
        _tensor("layers.6.queries", lambda a: a[:-1].copy()),
        "query windows of different sizes",
    ),
    "a group that is a number": (_groups(lambda groups: groups.append(8)), "heads are malformed"),
    "a head that is missing": (_groups(lambda groups: groups[0][1].pop()), "not all heads"),
    "a head twice": (_groups(lambda groups: groups[0][1].append(0)), "not all heads"),
    "a group without heads": (_groups(lambda groups: groups.append([0, []])), "not all heads"),
    "heads of a 99th layer": (_groups(lambda groups: groups.append([99, [0]])), "not all heads"),
    "another kind": (
        signed(lambda _, content, __: content["about"].update(kind="movie")),
        "neither a chat nor a prefix",
    ),
    "messages that are none": (
        signed(lambda _, content, __: content["about"].update(messages=[{"role": 3}])),
        "its messages are not",
    ),
    "a chat called a prefix": (
        signed(lambda _, content, __: content["about"].update(kind="prefix")),
        "does not say which text",
    ),
    "a prefix whose text has not been read": (
        signed(
            lambda _, content, __: content["about"].update(
                kind="prefix", text="Hello", system_message=""
            )
        ),
        "has not read all of its text",
    ),
}

DAMAGES = ON_DISK | IN_CONTENT
"""What is done to the file of a chat of the int8 model that evicts, and what its refusal says."""
