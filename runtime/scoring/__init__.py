"""A model that reads given tokens, over caches that are cut in many ways, and shows its logits."""
