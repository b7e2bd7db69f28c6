"""What is measured of an OpenVINO model for its KV cache, whoever made it; without PyTorch."""
