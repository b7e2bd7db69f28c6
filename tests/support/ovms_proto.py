"""What OpenVINO Model Server parses a graph with: its messages, built from their field numbers.

The numbers are those of MediaPipe's ``calculator.proto``, ``mediapipe_options.proto`` and
``sync_set_input_stream_handler.proto``, and of the server's ``llm_calculator.proto``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, text_format

_FIELD = descriptor_pb2.FieldDescriptorProto
_STRING, _BOOL, _UINT64, _UINT32 = (
    _FIELD.TYPE_STRING,
    _FIELD.TYPE_BOOL,
    _FIELD.TYPE_UINT64,
    _FIELD.TYPE_UINT32,
)

_MEDIAPIPE: dict[str, list[tuple[Any, ...]]] = {
    "MediaPipeOptions": [],
    "InputStreamInfo": [("tag_index", 1, _STRING), ("back_edge", 2, _BOOL)],
    "InputStreamHandlerConfig": [
        ("input_stream_handler", 1, _STRING),
        ("options", 3, ".mediapipe.MediaPipeOptions"),
    ],
    "SyncSetInputStreamHandlerOptions": [
        ("sync_set", 1, ".mediapipe.SyncSetInputStreamHandlerOptions.SyncSet", "repeated")
    ],
    "CalculatorGraphConfig": [
        ("node", 1, ".mediapipe.CalculatorGraphConfig.Node", "repeated"),
        ("input_stream", 10, _STRING, "repeated"),
        ("output_stream", 15, _STRING, "repeated"),
    ],
    "LLMCalculatorOptions": [
        ("models_path", 1, _STRING, "required"),
        ("max_num_batched_tokens", 2, _UINT64),
        ("cache_size", 3, _UINT64),
        ("max_num_seqs", 4, _UINT64),
        ("dynamic_split_fuse", 5, _BOOL),
        ("device", 6, _STRING),
        ("plugin_config", 7, _STRING),
        ("best_of_limit", 8, _UINT32),
        ("max_tokens_limit", 9, _UINT32),
        ("enable_prefix_caching", 10, _BOOL),
        ("draft_models_path", 11, _STRING),
        (
            "cache_eviction_config",
            20,
            ".mediapipe.LLMCalculatorOptions.CacheEvictionConfig",
        ),
    ],
}

_NESTED: dict[str, dict[str, list[tuple[Any, ...]]]] = {
    "SyncSetInputStreamHandlerOptions": {"SyncSet": [("tag_index", 1, _STRING, "repeated")]},
    "CalculatorGraphConfig": {
        "Node": [
            ("name", 1, _STRING),
            ("calculator", 2, _STRING),
            ("input_stream", 3, _STRING, "repeated"),
            ("output_stream", 4, _STRING, "repeated"),
            ("input_side_packet", 5, _STRING, "repeated"),
            ("node_options", 8, ".google.protobuf.Any", "repeated"),
            ("input_stream_handler", 11, ".mediapipe.InputStreamHandlerConfig"),
            ("input_stream_info", 13, ".mediapipe.InputStreamInfo", "repeated"),
        ]
    },
    "LLMCalculatorOptions": {
        "CacheEvictionConfig": [
            (
                "aggregation_mode",
                1,
                ".mediapipe.LLMCalculatorOptions.CacheEvictionConfig.AggregationMode",
            ),
            ("start_size", 2, _UINT64, "required"),
            ("recent_size", 3, _UINT64, "required"),
            ("max_cache_size", 4, _UINT64, "required"),
            ("apply_rotation", 5, _BOOL),
            ("snapkv_window_size", 6, _UINT64),
            ("kv_crush_config", 7, ".mediapipe.LLMCalculatorOptions.KVCrushConfig"),
        ],
        "KVCrushConfig": [
            ("budget", 2, _UINT64),
            (
                "anchor_point_mode",
                3,
                ".mediapipe.LLMCalculatorOptions.KVCrushConfig.AnchorPointMode",
            ),
            ("rng_seed", 4, _UINT64),
        ],
    },
}

_ENUMS = {
    "CacheEvictionConfig": ("AggregationMode", ("SUM", "NORM_SUM")),
    "KVCrushConfig": ("AnchorPointMode", ("RANDOM", "ZEROS", "ONES", "MEAN", "ALTERNATING")),
}

_SYNC_SET_EXTENSION = 155816273


def _add_fields(message: Any, fields: Iterable[tuple[Any, ...]]) -> None:
    for name, number, kind, *label in fields:
        field = message.field.add(name=name, number=number)
        field.label = {
            "repeated": _FIELD.LABEL_REPEATED,
            "required": _FIELD.LABEL_REQUIRED,
        }.get(label[0] if label else "", _FIELD.LABEL_OPTIONAL)
        if not isinstance(kind, str):
            field.type = kind
            continue
        is_enum = kind.rpartition(".")[2] in [name for name, _ in _ENUMS.values()]
        field.type = _FIELD.TYPE_ENUM if is_enum else _FIELD.TYPE_MESSAGE
        field.type_name = kind


def _make_pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="graph.proto",
        package="mediapipe",
        syntax="proto2",
        dependency=["google/protobuf/any.proto"],
    )
    for name, fields in _MEDIAPIPE.items():
        message = file.message_type.add(name=name)
        _add_fields(message, fields)
        for inner_name, inner_fields in _NESTED.get(name, {}).items():
            inner = message.nested_type.add(name=inner_name)
            _add_fields(inner, inner_fields)
            if inner_name in _ENUMS:
                enum_name, words = _ENUMS[inner_name]
                enum = inner.enum_type.add(name=enum_name)
                for number, word in enumerate(words):
                    enum.value.add(name=word, number=number)
        if name == "MediaPipeOptions":
            message.extension_range.add(start=20000, end=536870912)
        if name == "SyncSetInputStreamHandlerOptions":
            message.extension.add(
                name="ext",
                number=_SYNC_SET_EXTENSION,
                label=_FIELD.LABEL_OPTIONAL,
                type=_FIELD.TYPE_MESSAGE,
                type_name=".mediapipe.SyncSetInputStreamHandlerOptions",
                extendee=".mediapipe.MediaPipeOptions",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool


_POOL = _make_pool()


def parse_graph(text: str) -> tuple[Any, Any]:
    """The graph that ``text`` says, and the options of its one node.

    Raises:
        google.protobuf.text_format.ParseError: the server would not read it either.
    """
    graph = _message("CalculatorGraphConfig")
    text_format.Parse(text, graph, descriptor_pool=_POOL)
    (node,) = graph.node
    (packed,) = node.node_options
    options = _message("LLMCalculatorOptions")
    assert packed.type_url == "type.googleapis.com/mediapipe.LLMCalculatorOptions"
    options.ParseFromString(packed.value)
    assert options.IsInitialized()
    return graph, options


def sync_sets(node: Any) -> list[list[str]]:
    """Tags of the sets in which a node waits for its inputs."""
    extension = _POOL.FindExtensionByName("mediapipe.SyncSetInputStreamHandlerOptions.ext")
    options = node.input_stream_handler.options.Extensions[extension]
    return [[*one.tag_index] for one in options.sync_set]


def _message(name: str) -> Any:
    descriptor = _POOL.FindMessageTypeByName(f"mediapipe.{name}")
    return message_factory.GetMessageClass(descriptor)()
