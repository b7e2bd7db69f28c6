"""The application as Ray's own tools make it: ``serve run``, ``serve deploy``, a ``RayService``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.model_folder import require_graph
from ov_kvcrush.serve.chat_folder import make_chat_folder
from ov_kvcrush.serve.keys import read_keys
from ov_kvcrush.serve.replicas.deployment import application
from ov_kvcrush.serve.replicas.settings import ReplicaSettings
from ov_kvcrush.serve.settings import DEFAULT_CHUNK, ServeSettings
from ov_kvcrush.serve.threads import with_threads

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

_KNOWN = ("model_dir", "replicas", "kv_cache", "server", "pipeline", "properties")


def build(args: Mapping[str, Any]) -> Any:
    """An application of what a YAML file's ``args`` say; ``import_path`` names this function.

    Args:
        args: ``model_dir``, and these, each a dictionary and each may be missing: ``replicas``,
            fields of :class:`ReplicaSettings`; ``kv_cache``, of ``KVCacheConfig``; ``server``, of
            :class:`ServeSettings`, and ``api_key_file``; ``pipeline``, keyword arguments of
            ``LLMPipeline``; ``properties``, OpenVINO's. The server's host and port are the
            cluster's.

    Raises:
        ConfigError: one of them is not known, or is wrong.
        ModelError: there is not a model in the folder.
    """
    _require_known("args", args, _KNOWN)
    if "model_dir" not in args:
        raise ConfigError("args have no model_dir", "Give the model's folder.")
    folder = require_graph(Path(args["model_dir"])).parent
    server, pipeline = dict(args.get("server", {})), dict(args.get("pipeline", {}))
    server.setdefault("model_names", (folder.resolve().name,))
    # Ray's proxies are reached from other machines, by names that are not known here.
    server.setdefault("host", "0.0.0.0")
    key_file = server.pop("api_key_file", None)
    keys = read_keys(None if key_file is None else Path(key_file), os.environ)
    for name in ("model_names", "allowed_hosts", "cors_origins"):
        if name in server:
            server[name] = tuple(server[name])
    if "session_dir" in server:
        server["session_dir"] = Path(server["session_dir"])
        make_chat_folder(server["session_dir"], pipeline.get("engine", "paged"))
    _require_known("server", server, _names_of(ServeSettings))
    _require_known("replicas", args.get("replicas", {}), _names_of(ReplicaSettings))
    settings = ServeSettings(**{**server, "keys": keys})
    replicas = ReplicaSettings(**args.get("replicas", {}))
    load = partial(
        _load,
        folder,
        config=with_threads(args.get("properties", {}), replicas.threads),
        kv_cache_config=KVCacheConfig.from_dict(args.get("kv_cache", {})),
        max_num_seqs=settings.max_running,
        **{"max_num_batched_tokens": DEFAULT_CHUNK, **pipeline},
    )
    return application(settings, load, replicas)


def _require_known(what: str, given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{name!r} is not one of {what}", did_you_mean(name, known))


def _names_of(settings: type) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def _load(folder: Path, **arguments: Any) -> LLMPipeline:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

    return LLMPipeline(folder, **arguments)
