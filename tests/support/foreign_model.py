"""A model that OpenVINO reads and that generates no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def save_foreign_model(folder: Path) -> None:
    """Let the IR in ``folder`` be one."""
    values = ops.parameter([1, 2], np.float32)
    ov.save_model(ov.Model([ops.relu(values)], [values]), folder / "openvino_model.xml")
