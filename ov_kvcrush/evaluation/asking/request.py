"""What results depend on, as JSON values: runs of the same request may go on from one another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.suites.sample import Sample
from ov_kvcrush.gate import GATE_FILE
from ov_kvcrush.model_folder import (
    CONFIG_FILE,
    GENERATION_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILES,
    fingerprint,
    require_graph,
)
from ov_kvcrush.plan import PLAN_FILE

_PACKAGES = ("ov-kvcrush", "openvino", "openvino-genai", "openvino-tokenizers")
_FILES = (
    CONFIG_FILE,
    GENERATION_FILE,
    TEMPLATE_FILE,
    *TOKENIZER_FILES,
    PLAN_FILE,
    GATE_FILE,
)


def make_request(
    folder: Path,
    configurations: Sequence[Configuration],
    samples: Sequence[Sample],
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """The request of a run.

    Args:
        folder: exported model; where it lies makes no difference.
        configurations: of the cache.
        samples: that are asked, in their order.
        how: they are asked, and the arguments they were chosen by, as JSON values.

    Raises:
        ModelError: there is no model.
    """
    return {
        "model": _model_digest(folder),
        "versions": {name: version(name) for name in _PACKAGES},
        "configurations": [_configuration(one) for one in configurations],
        "samples": _samples_digest(samples),
        **how,
    }


def _configuration(configuration: Configuration) -> dict[str, Any]:
    keep = configuration.keep
    return {**asdict(configuration), "keep": None if keep is None else str(keep)}


def _model_digest(folder: Path) -> str:
    """Of the graph and what stands beside it: tokenizer, chat template, KV plan, gate."""
    require_graph(folder)
    digest = hashlib.sha256(fingerprint(folder).encode())
    for name in _FILES:
        path = folder / name
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _samples_digest(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps(asdict(sample)).encode())
    return digest.hexdigest()
