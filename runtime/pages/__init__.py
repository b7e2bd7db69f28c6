"""Pages and the bytes behind them; nothing here knows of sequences."""
