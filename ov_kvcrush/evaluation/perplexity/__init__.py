"""How well a model tells a text on, whose older tokens are cut to a budget all the time."""
