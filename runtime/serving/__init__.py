"""An engine in a thread of its own, for callers in any other."""
