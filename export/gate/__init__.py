"""The gate: a score for each token, known when it is read, of how much later text will look at it."""
