"""The steps of a GGUF file's export: store what is not read anew, convert, correct, measure."""

from __future__ import annotations

from ov_kvcrush.export.gguf import reader
from ov_kvcrush.export.gguf.corrections import correct
from ov_kvcrush.export.gguf.description import context_length, write_description
from ov_kvcrush.export.gguf.preflight import GgufPreflight
from ov_kvcrush.export.gguf.stored_anew import is_read_as_it_is, store_anew
from ov_kvcrush.export.gguf.tokenizer import correct_tokenizer, try_tokenizer
from ov_kvcrush.export.last_steps import LastSteps
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.step import Step
from ov_kvcrush.export.workspace import Workspace
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.progress import Progress


class GgufSteps:
    """One export's steps; arguments as those of :class:`ExportSteps`."""

    def __init__(
        self,
        options: ExportOptions,
        checked: GgufPreflight,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        self._model = checked.model
        self._workspace = workspace
        self._progress = progress
        self._copy = workspace.scratch / "whole.gguf"
        self._last = LastSteps(
            options,
            checked.precisions,
            checked.kv_text,
            context_length(checked.model),
            workspace.model,
            progress,
            made_here=False,
        )

    def in_order(self) -> list[Step]:
        """The steps that this export takes, to be run one after another.

        A step that cannot be done raises ConfigError or ExportError when it is run.
        """
        steps = [
            Step("Convert the GGUF file to OpenVINO", self._convert),
            Step("Set right what was rounded", self._correct),
            Step("Try the tokenizer", self._try_tokenizer),
        ]
        if not is_read_as_it_is(self._model):
            steps.insert(0, Step("Store weights in kinds that are read", self._store_anew))
        return steps + self._last.in_order()

    def write_plan(self) -> KVPlan:
        """Write the KV plan, and a gate if there is one, beside the IR; all steps have been run."""
        return self._last.write_plan()

    def _store_anew(self) -> None:
        store_anew(self._model, self._copy, self._progress.advance)

    def _convert(self) -> None:
        parts = (self._copy,) if self._copy.exists() else self._model.parts
        folder = self._workspace.scratch / "converted"
        folder.mkdir()
        reader.convert(str(self._model.path), parts, folder, self._workspace.model)
        self._copy.unlink(missing_ok=True)

    def _correct(self) -> None:
        correct(self._model, self._workspace.model)
        correct_tokenizer(self._model, self._workspace.model)
        write_description(self._model, self._workspace.model)

    def _try_tokenizer(self) -> None:
        try_tokenizer(self._model, self._workspace.model, self._progress)
