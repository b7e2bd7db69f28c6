"""From a Hugging Face model to an OpenVINO model, its tokenizer and its KV plan.

Exporting needs PyTorch: ``pip install "ov-kvcrush[export]"``. Calibrating a model that is there
already does not.
"""

from ov_kvcrush.export.calibration.calibrate import calibrate_model
from ov_kvcrush.export.calibration.options import CalibrationOptions
from ov_kvcrush.export.exporter import estimate_model, export_model
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.progress import Progress

__all__ = [
    "CalibrationOptions",
    "ExportOptions",
    "Progress",
    "calibrate_model",
    "estimate_model",
    "export_model",
]
