"""Function tools: how a chat template spells calls, and calls in the text of answers."""
