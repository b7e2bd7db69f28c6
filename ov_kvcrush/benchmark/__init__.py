"""How fast a model is and what it holds, beside openvino_genai, measured taking turns."""
