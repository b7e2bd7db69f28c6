"""OpenVINO Model Server: the files by which it serves a model, its KV cache bounded as here."""
