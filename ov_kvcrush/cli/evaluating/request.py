"""What the flags of ``ov-kvcrush eval`` ask for, whatever the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.cli.evaluating.outputs import Outputs
from ov_kvcrush.evaluation.configurations import Configuration


@dataclass(frozen=True)
class EvalRequest:
    """An evaluation as it was asked for; what was left open is None.

    Attributes:
        model_dir: exported model.
        device: name of the device.
        data: file to evaluate on; None is what ships, or what is made.
        configurations: of the cache.
        outputs: what is shown, and where.
        tasks: of the data.
        tokens: least and most of a document.
        split: half of the data.
        limit: documents at most.
        prefill_factor: prefill budget as a multiple of the budget.
        chunk: tokens that are read at once.
        properties: of the plugin.
        decode_precision: as ``LLMPipeline`` has it.
        prompt_lookup: likewise.
    """

    model_dir: Path
    device: str
    data: Path | None
    configurations: Sequence[Configuration]
    outputs: Outputs
    tasks: Sequence[str]
    tokens: tuple[int, int] | None
    split: str
    limit: int | None
    prefill_factor: float | None
    chunk: int | None
    properties: dict[str, str]
    decode_precision: str
    prompt_lookup: int = 0

    def facts(self) -> dict[str, Any]:
        """What was asked for, as JSON values."""
        return {
            "model": str(self.model_dir),
            "device": self.device,
            "data": self.data and str(self.data),
            "tasks": list(self.tasks) or None,
            "tokens": self.tokens,
            "split": self.split,
            "limit": self.limit,
            "prefill_factor": self.prefill_factor,
            "chunk": self.chunk,
            "properties": self.properties,
            "decode_precision": self.decode_precision,
            "prompt_lookup": self.prompt_lookup,
        }
