"""A chat at a terminal: its conversation, its commands, and the files it is kept in."""
