"""From a GGUF file to an OpenVINO model: openvino_genai's reader, with checks and corrections.

PyTorch is not needed.
"""
