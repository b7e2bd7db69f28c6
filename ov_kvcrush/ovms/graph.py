"""``graph.pbtxt``: the calculator by which OpenVINO Model Server runs a language model.

After the server's ``llm_calculator.proto`` and MediaPipe's ``calculator.proto``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from openvino_genai import CacheEvictionConfig, SchedulerConfig

from ov_kvcrush.ovms.text_format import Field, Word, to_text

_LOOPBACK = "LOOPBACK:loopback"
_REQUEST = "HTTP_REQUEST_PAYLOAD:input"
_REPLY = "HTTP_RESPONSE_PAYLOAD:output"


@dataclass(frozen=True)
class LLMGraph:
    """A graph of one language model, with all that its scheduler is told.

    Attributes:
        models_path: folder of the model, from the graph's own folder on or from the root.
        device: that it runs on.
        scheduler: its limits and its eviction.
        prefix_caching: whether prompts that begin alike are read once.
        properties: of the plugin, as JSON values.
        draft_models_path: folder of a model that guesses for it; empty where none does.
        has_execution_contexts: whether the node is given the side packet of that name.
    """

    models_path: str
    device: str
    scheduler: SchedulerConfig
    prefix_caching: bool
    properties: Mapping[str, object] = field(default_factory=dict)
    draft_models_path: str = ""
    has_execution_contexts: bool = True

    def to_text(self) -> str:
        """The file's content."""
        return to_text(
            [
                ("input_stream", _REQUEST),
                ("output_stream", _REPLY),
                ("node", self._node()),
            ]
        )

    def _node(self) -> list[Field]:
        contexts: list[Field] = [("input_side_packet", "LLM_NODE_EXECUTION_CONTEXTS:llm_ctx")]
        return [
            ("name", "LLMExecutor"),
            ("calculator", "HttpLLMCalculator"),
            ("input_stream", _LOOPBACK),
            ("input_stream", _REQUEST),
            ("input_side_packet", "LLM_NODE_RESOURCES:llm"),
            *(contexts if self.has_execution_contexts else []),
            ("output_stream", _LOOPBACK),
            ("output_stream", _REPLY),
            ("input_stream_info", [("tag_index", "LOOPBACK:0"), ("back_edge", True)]),
            (
                "node_options",
                [("[type.googleapis.com/mediapipe.LLMCalculatorOptions]", self._options())],
            ),
            (
                "input_stream_handler",
                [
                    ("input_stream_handler", "SyncSetInputStreamHandler"),
                    (
                        "options",
                        [
                            (
                                "[mediapipe.SyncSetInputStreamHandlerOptions.ext]",
                                [("sync_set", [("tag_index", "LOOPBACK:0")])],
                            )
                        ],
                    ),
                ],
            ),
        ]

    def _options(self) -> list[Field]:
        scheduler = self.scheduler
        options: list[Field] = [
            ("models_path", self.models_path),
            ("device", self.device),
            ("max_num_batched_tokens", scheduler.max_num_batched_tokens),
            ("max_num_seqs", scheduler.max_num_seqs),
            ("cache_size", scheduler.cache_size),
            # Said in any case: the server's own tools switch it on where nothing is said.
            ("enable_prefix_caching", self.prefix_caching),
        ]
        if self.properties:
            options.append(("plugin_config", json.dumps(dict(self.properties))))
        if self.draft_models_path:
            options.append(("draft_models_path", self.draft_models_path))
        if scheduler.use_cache_eviction:
            options.append(("cache_eviction_config", _eviction(scheduler.cache_eviction_config)))
        return options


def _eviction(eviction: CacheEvictionConfig) -> list[Field]:
    crush = eviction.kvcrush_config
    return [
        ("aggregation_mode", Word(eviction.aggregation_mode.name)),
        ("start_size", eviction.get_start_size()),
        ("recent_size", eviction.get_recent_size()),
        ("max_cache_size", eviction.get_max_cache_size()),
        ("apply_rotation", eviction.apply_rotation),
        ("snapkv_window_size", eviction.snapkv_window_size),
        (
            "kv_crush_config",
            [
                ("budget", crush.budget),
                ("anchor_point_mode", Word(crush.anchor_point_mode.name)),
                ("rng_seed", crush.rng_seed),
            ],
        ),
    ]
