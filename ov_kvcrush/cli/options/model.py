"""The arguments that say which model runs where, and the loading of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

ModelDir = Annotated[
    Path, typer.Argument(metavar="MODEL_DIR", help="Folder made by ov-kvcrush export.")
]
Device = Annotated[str, typer.Argument(help="Device, in any case.")]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="paged|genai",
        help="Our own on CPU, or openvino_genai's on any device it serves.",
    ),
]
Properties = Annotated[
    list[str] | None,
    typer.Option(
        "--property",
        metavar="KEY=VALUE",
        help="OpenVINO property, such as INFERENCE_PRECISION_HINT=f32; repeatable.",
        show_default=False,
    ),
]
DecodePrecision = Annotated[
    str | None,
    typer.Option(
        metavar="f32",
        help="Decode in it, with a second copy of the weights: faster on CPUs that read prompts in "
        "bf16 where the weights are compressed (default as prompts are read).",
        show_default=False,
    ),
]

ParseSpecial = Annotated[
    bool,
    typer.Option(
        "--parse-special",
        help="Let <|im_end|> and the like in prompts and documents be special tokens, not text.",
    ),
]

ContextLength = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Prompt and answer together, in place of what the model was made to read; 0 does not "
        "bound them.",
        show_default=False,
    ),
]


def parse_properties(given: Sequence[str]) -> dict[str, str]:
    """Plugin properties of ``KEY=VALUE`` texts.

    Raises:
        ConfigError: a text is not of this form.
    """
    properties = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(
                f"--property {text!r} is not KEY=VALUE",
                "For instance: --property INFERENCE_PRECISION_HINT=f32",
            )
        properties[name] = value
    return properties


def load_pipeline(
    model_dir: Path,
    device: str,
    engine: str,
    kv_cache_config: KVCacheConfig,
    properties: Mapping[str, str],
    decode_precision: str | None = None,
    parse_special: bool = False,
    context_length: int | None = None,
) -> LLMPipeline:
    """Load and compile the model, with a spinner on stderr where that is a terminal."""
    console = Console(file=sys.stderr)
    with console.status(escape(f"Loading {model_dir} on {device} …")):
        from ov_kvcrush.runtime.plugin.ir_file import begin_reading

        begin_reading(model_dir)
        from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

        return LLMPipeline(
            model_dir,
            device=device,
            config=properties,
            kv_cache_config=kv_cache_config,
            engine=engine,
            decode_precision=decode_precision,
            parse_special=parse_special,
            context_length=context_length,
        )
