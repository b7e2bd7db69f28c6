"""What part of an evicting cache's budget each layer gets: three measures of who looks far back."""

from ov_kvcrush.export.layer_shares.measurement import measure_layer_shares

__all__ = ["measure_layer_shares"]
