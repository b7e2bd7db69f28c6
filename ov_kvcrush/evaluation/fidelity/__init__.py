"""How far a cut cache is from the full one, on texts that need no right answers."""
