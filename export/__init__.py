"""From a Hugging Face model to an OpenVINO model, its tokenizer and its KV plan.

The only part of the package that needs PyTorch: ``pip install "ov-kvcrush[export]"``.
"""

from ov_kvcrush.export.exporter import estimate_model, export_model
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.progress import Progress

__all__ = ["ExportOptions", "Progress", "estimate_model", "export_model"]
