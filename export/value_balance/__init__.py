"""Values stored in bases that few bits suit; the model stays the same function."""
