"""A sequence's kept cache on disk and back."""
