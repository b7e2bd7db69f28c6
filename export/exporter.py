"""A whole export: checked, made in steps, and moved into place; or only estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.recognize import gguf_file
from ov_kvcrush.export.step import Step
from ov_kvcrush.export.texts.mix import find_texts
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.plan_records import ValueBasis
from ov_kvcrush.progress import Progress, Silent

if TYPE_CHECKING:
    from ov_kvcrush.export.preflight import Preflight
    from ov_kvcrush.export.workspace import Workspace

_INSTALL = 'Run: pip install "ov-kvcrush[export]"'


class _Steps(Protocol):
    """An export's steps, whatever it is made from."""

    def in_order(self) -> list[Step]: ...

    def write_plan(self) -> KVPlan: ...


def export_model(options: ExportOptions, progress: Progress | None = None) -> KVPlan:
    """Export ``options.model`` to ``options.output``; the folder appears whole or not at all.

    Returns:
        The KV plan, as it lies in the folder.

    Raises:
        ConfigError: options that contradict each other or the model.
        ExportError: the export cannot start, or failed.
    """
    progress = progress or Silent()
    from ov_kvcrush.export.output_folder import resolve_output
    from ov_kvcrush.export.workspace import open_workspace, reclaim

    output = resolve_output(options.output)
    reclaim(output)  # before it is checked: a model may have to be put back there
    make_steps = _check(options, progress)
    with open_workspace(output) as workspace:
        export = make_steps(workspace)
        steps = export.in_order()
        for number, step in enumerate(steps, start=1):
            progress.step(number, len(steps), step.title)
            with _disk_errors(step.title):
                step.run()
        with _disk_errors("Move the model into place"):
            plan = export.write_plan()
            workspace.publish()
    return plan


def _check(options: ExportOptions, progress: Progress) -> Callable[[Workspace], _Steps]:
    """Check the export; what makes its steps, in a workspace."""
    if (file := gguf_file(options.model)) is not None:
        from ov_kvcrush.export.gguf import preflight as gguf_preflight

        found = gguf_preflight.check(options, file, progress)

        from ov_kvcrush.export.gguf.steps import GgufSteps

        return lambda workspace: GgufSteps(options, found, workspace, progress)
    _require_packages()
    from ov_kvcrush.export import preflight

    checked = preflight.check(options, progress)

    # Seconds of imports: not before the checks that need none of them have passed.
    from ov_kvcrush.export.steps import ExportSteps

    return lambda workspace: ExportSteps(options, checked, workspace, progress)


@contextmanager
def _disk_errors(title: str) -> Iterator[None]:
    """What the disk does not allow during the step ``title`` is no defect of the program."""
    try:
        yield
    except OSError as error:
        what = f" ({error.filename})" if error.filename else ""
        raise ExportError(
            f"the export failed at the step {title!r}: {error.strerror or error}{what}",
            "Nothing was written. See that the disk has room and can be written, and run it again.",
        ) from error


def estimate_model(options: ExportOptions, progress: Progress | None = None) -> KVPlan:
    """The plan ``export_model`` would make, estimated without exporting; nothing is written.

    All checks are made that come before an export. ``fingerprint`` is empty, and so is ``layers``
    where the configuration does not tell the geometry.

    Raises:
        ConfigError, ExportError: as :func:`export_model`.
    """
    progress = progress or Silent()
    if options.kv_plan == "auto":
        progress.note("what --kv-plan auto chooses is known after the export: shown is u8 for all")
    if (file := gguf_file(options.model)) is not None:
        from ov_kvcrush.export.gguf import preflight as gguf_preflight

        return gguf_preflight.estimate(options, gguf_preflight.check(options, file, progress))
    _require_packages()
    from ov_kvcrush.export import preflight

    checked = preflight.check(options, progress)
    find_texts(options.texts)

    from ov_kvcrush.export.checkpoint.estimate import context_length
    from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

    precisions = checked.precisions or (options.kv_precision,) * len(checked.layers)
    return KVPlan(
        model_type=checked.config.model_type,
        fingerprint="",
        layers=checked.layers,
        precisions=precisions,
        kv_bytes_per_token=kv_bytes_per_token(checked.layers, precisions),
        context_length=context_length(checked.config),
        value_basis=ValueBasis("balanced") if options.balance_values else None,
        weights=_estimated_weights(options, checked),
    )


def _estimated_weights(options: ExportOptions, checked: Preflight) -> dict[str, object]:
    kind = checked.compressed_format or options.weight_format
    stored = str(checked.config.dtype).removeprefix("torch.")
    kind = kind or {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(
        stored, "as stored"
    )
    return {"format": kind, "size_bytes": checked.weight_bytes}


def _require_packages() -> None:
    for name in ("torch", "transformers", "nncf", "optimum", "optimum.intel"):
        if find_spec(name) is None:
            raise ExportError(f"exporting needs the package {name}, which is missing", _INSTALL)
