"""From a GGUF file, llama.cpp's format, to an OpenVINO model: openvino_genai reads it, checked and set right.

PyTorch is not needed.
"""
