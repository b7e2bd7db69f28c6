"""Our own engine over OpenVINO's paged KV cache."""
