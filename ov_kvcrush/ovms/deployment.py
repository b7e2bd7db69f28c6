"""A model under OpenVINO Model Server: what it cannot serve is refused, and its files are written.

The server runs openvino_genai's continuous batching, and its process ends with the first exception
of a step; so whatever would end in one is refused here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, OVKVCrushError, UnsupportedError
from ov_kvcrush.files import write_text
from ov_kvcrush.model_folder import has_chat_template, require_graph, require_tokenizer
from ov_kvcrush.ovms.graph import LLMGraph
from ov_kvcrush.ovms.release import NEWEST, Release
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.genai.eviction import (
    GenaiEviction,
    in_place_of_defaults,
    tell_what_gave_way,
)
from ov_kvcrush.runtime.genai.settings import (
    page_size_of,
    plugin_properties,
    require_fixed_pool,
    scheduler_config,
    stored_precision,
)
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

CONFIG_FILE = "config.json"
# A folder of its own: the server reads a config.json beside a graph as another file of its own
# kind, and a model has one of another kind.
GRAPH_FOLDER = "graph"
GRAPH_FILE = "graph.pbtxt"

_GIB = 2**30
# A pool beyond it is a mistake of the unit.
_MOST_GIB = 65536


@dataclass(frozen=True)
class Deployment:
    """What the server is to be told of a model.

    Attributes:
        model_dir: the model's folder.
        name: that requests call it by.
        output: folder of both files.
        graph: of the model.
        eviction: what is kept of a sequence; None where all of it is.
        kv_bytes_per_token: of all layers; 0 where the model does not tell.
    """

    model_dir: Path
    name: str
    output: Path
    graph: LLMGraph
    eviction: GenaiEviction | None
    kv_bytes_per_token: float

    @property
    def config_file(self) -> Path:
        """That the server is started with."""
        return self.output / CONFIG_FILE

    @property
    def graph_file(self) -> Path:
        """That the first file leads to."""
        return self.output / GRAPH_FOLDER / GRAPH_FILE

    @property
    def pool_tokens(self) -> int | None:
        """Tokens that its pool holds; None where it grows, or that is not known."""
        if not (self.graph.scheduler.cache_size and self.kv_bytes_per_token):
            return None
        return int(self.graph.scheduler.cache_size * _GIB / self.kv_bytes_per_token)

    @property
    def has_chat(self) -> bool:
        """Whether the model has a chat template, without which it only continues texts."""
        return has_chat_template(self.model_dir)

    def config(self) -> dict[str, Any]:
        """JSON values of the file that the server is started with."""
        served = {"name": self.name, "base_path": GRAPH_FOLDER}
        return {"model_config_list": [{"config": served}]}

    def write(self, overwrite: bool = False) -> None:
        """Write both files, the one that leads to the other last; each is whole or what it was.

        Args:
            overwrite: whether files that are there are replaced.

        Raises:
            ConfigError: a file is there and ``overwrite`` is not given.
            OVKVCrushError: they cannot be written.
        """
        for path in (self.config_file, self.graph_file):
            if os.path.lexists(path) and not overwrite:
                raise ConfigError(
                    f"{path} exists", "Choose another folder with -o, or add --overwrite."
                )
        try:
            self.graph_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OVKVCrushError(
                f"cannot make {self.graph_file.parent}: {error.strerror}",
                "Give another folder with -o.",
            ) from error
        write_text(self.graph_file, self.graph.to_text())
        write_text(self.config_file, f"{json.dumps(self.config(), indent=2)}\n")


def plan_deployment(
    model_dir: Path,
    config: KVCacheConfig,
    output: Path | None = None,
    name: str | None = None,
    device: str = "CPU",
    cache_size: int = 0,
    release: Release = NEWEST,
    draft_model: Path | None = None,
) -> Deployment:
    """What the server has to be told for a model to be served with ``config``; nothing is written.

    Args:
        model_dir: folder of an OpenVINO model with its tokenizer.
        config: of the KV cache; defaults of ours that openvino_genai cannot obey give way to its
            own, with a warning.
        output: folder of both files; None is one beside the model's.
        name: that requests call the model by; None is its folder's.
        device: ``CPU`` or a GPU, of the machine where the server will run.
        cache_size: GiB of the pool; 0 lets it grow.
        release: of the server.
        draft_model: folder of a model that guesses for it.

    Raises:
        ModelError: there is no model, tokenizer or KV plan that could be served.
        ConfigError: settings that contradict each other, or that openvino_genai cannot store.
        UnsupportedError: a setting that its eviction cannot obey.
    """
    require_graph(model_dir)
    require_tokenizer(model_dir)
    device = _require_device(device)
    folder = _output_of(model_dir, output)
    if not 0 <= cache_size <= _MOST_GIB:
        raise ConfigError(
            f"--cache-size {cache_size} is not a number of GB that a pool can have",
            "Give whole GB, or 0 for a pool that grows.",
        )
    if config.pool_size is not None:
        raise ConfigError(
            f"pool_size {config.pool_size} counts tokens, and OpenVINO Model Server its pool in GB",
            "Give --cache-size GB in its place.",
        )
    if draft_model is not None:
        require_graph(draft_model)
        if config.evicts:
            raise UnsupportedError(
                "openvino_genai's draft models fail where a KV cache is cut",
                "Leave --draft-model out, or keep everything.",
            )
    page_size = page_size_of(device)
    asked, eviction = config, None
    with _hints_for_the_server():
        if config.evicts:
            config = in_place_of_defaults(config, page_size)
            eviction = GenaiEviction.of(config, page_size)
        plan = KVPlan.load(model_dir)
        properties = plugin_properties({}, config, plan)
    precision = stored_precision(plan, properties)
    scheduler = scheduler_config(
        config, eviction, page_size, EngineLimits(pool_bytes=cache_size * _GIB)
    )
    try:
        require_fixed_pool(scheduler, precision)
    except ConfigError as error:
        error.hint = (
            "Give --cache-size GB, for all tokens that will be held at a time, or serve it with: "
            "ov-kvcrush serve"
        )
        raise
    bytes_per_token = 0.0
    if plan is not None and precision is not None and device == "CPU":
        bytes_per_token = kv_bytes_per_token(plan.layers, [precision] * len(plan.layers))
    if eviction is not None:
        tell_what_gave_way(asked, config)
    graph = LLMGraph(
        models_path=_from_graph(model_dir, folder),
        device=device,
        scheduler=scheduler,
        prefix_caching=scheduler.enable_prefix_caching and config.prefix_caching,
        properties=properties,
        draft_models_path="" if draft_model is None else _from_graph(draft_model, folder),
        has_execution_contexts=release.has_execution_contexts,
    )
    named = _require_name(model_dir.resolve().name if name is None else name)
    return Deployment(model_dir, named, folder, graph, eviction, bytes_per_token)


def _require_device(device: str) -> str:
    name = device.upper()
    if name != "CPU" and name.partition(".")[0] != "GPU":
        raise UnsupportedError(
            f"{device!r} is not a device on which OpenVINO Model Server keeps a KV cache in pages",
            "Give CPU, or a GPU such as GPU.0.",
        )
    return name


def _require_name(name: str) -> str:
    if not name or not name.isprintable() or name != name.strip():
        raise ConfigError(f"{name!r} is not a name for a model", "Give one such as --name qwen3.")
    return name


def _output_of(model_dir: Path, output: Path | None) -> Path:
    # Beside a link to the model where there is one, not where it leads to.
    named = model_dir if model_dir.name not in ("", "..") else Path(os.path.abspath(model_dir))
    folder = named.with_name(f"{named.name}-ovms") if output is None else output
    if folder.resolve() == model_dir.resolve():
        raise ConfigError(
            f"{folder} is the model's own folder, whose {CONFIG_FILE} is another file",
            "Give another folder with -o.",
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file", "Give the name of a folder with -o.")
    return folder


def _from_graph(model_dir: Path, output: Path) -> str:
    """Where a model is, told from the graph's folder on: both may be mounted elsewhere together."""
    return os.path.relpath(model_dir.resolve(), output.resolve() / GRAPH_FOLDER)


@contextmanager
def _hints_for_the_server() -> Iterator[None]:
    """Errors name the way to our own engine that there is beside this server."""
    try:
        yield
    except OVKVCrushError as error:
        for words in ("use the paged engine (engine='paged')", "use the paged engine"):
            error.hint = error.hint.replace(words, "serve it with: ov-kvcrush serve")
        raise
