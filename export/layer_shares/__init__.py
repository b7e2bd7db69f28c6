"""What part of an evicting cache's budget each KV head gets: three measures of who looks back."""

from ov_kvcrush.export.layer_shares.measurement import measure_head_shares

__all__ = ["measure_head_shares"]
