"""openvino_genai's engine behind our interface."""
