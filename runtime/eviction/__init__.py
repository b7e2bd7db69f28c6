"""What a cut does to a sequence's cache: how much stays, when it is due, and the moving of it."""
