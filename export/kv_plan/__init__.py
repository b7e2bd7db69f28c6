"""A precision for the KV cache of each layer: measured, predicted, chosen."""
