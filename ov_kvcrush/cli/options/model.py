"""The arguments that say which model runs where, and the loading of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, ModelError
from ov_kvcrush.model_folder import require_tokenizer
from ov_kvcrush.precisions import AUTO, DECODE_PRECISIONS

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
    str,
    typer.Option(
        metavar="|".join(DECODE_PRECISIONS),
        help="Decode in f32, with a second copy of the weights, always, never (same), or where it "
        "is faster: on CPUs that read prompts in bf16, with compressed weights.",
    ),
]
PromptLookup = Annotated[
    int,
    typer.Option(
        metavar="TOKENS",
        help="Guess up to so many tokens a step from the text so far, where that is faster: copied "
        "and edited text comes in a fraction of the time, answers stay the same (0 is off).",
        min=0,
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
    decode_precision: str = AUTO,
    parse_special: bool = False,
    context_length: int | None = None,
    prompt_lookup: int = 0,
    meanwhile: Sequence[str] = (),
) -> LLMPipeline:
    """Load and compile the model.

    Where stderr is a terminal it shows a spinner there, and then how long it took and what is
    computed in.

    ``meanwhile``: names of modules that the command is going to need, imported while the plugin
    compiles; the others are arguments of :class:`ov_kvcrush.LLMPipeline`.
    """
    with _loading_shown(model_dir, device) as loaded:
        if engine == "paged":
            _begin_compiling(model_dir, device, kv_cache_config, properties, decode_precision)
        from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline

        for name in meanwhile:
            import_module(name)
        pipeline = LLMPipeline(
            model_dir,
            device=device,
            config=properties,
            kv_cache_config=kv_cache_config,
            engine=engine,
            decode_precision=decode_precision,
            parse_special=parse_special,
            context_length=context_length,
            prompt_lookup=prompt_lookup,
        )
        loaded.append(pipeline)
    return pipeline


def _begin_compiling(
    model_dir: Path,
    device: str,
    kv_cache_config: KVCacheConfig,
    properties: Mapping[str, str],
    decode_precision: str,
) -> None:
    """Let the plugin compile while the pipeline is imported; what is wrong, that will say."""
    try:
        require_tokenizer(model_dir)  # or a mistake that is known would wait for the compilation
    except ModelError:
        return
    from ov_kvcrush.runtime.paged.model_ahead import begin_compiling
    from ov_kvcrush.runtime.paged.model_choice import ModelRequest

    begin_compiling(
        ModelRequest(model_dir, device, kv_cache_config, dict(properties), decode_precision)
    )


@contextmanager
def _loading_shown(model_dir: Path, device: str) -> Iterator[list[LLMPipeline]]:
    """Show that a model is loaded, and what the pipeline put in the list has become."""
    loaded: list[LLMPipeline] = []
    if not sys.stderr.isatty():
        yield loaded
        return
    # What draws takes a while to import, which nobody sees here.
    from rich.console import Console
    from rich.markup import escape

    console, begun = Console(file=sys.stderr), time.perf_counter()
    with console.status(escape(f"Loading {model_dir} on {device} …")):
        yield loaded
    seconds = f"Loaded in {time.perf_counter() - begun:.1f} s"
    computing = loaded[0].describe().computing
    console.print(f"{seconds}; {computing}." if computing else f"{seconds}.", style="dim")
