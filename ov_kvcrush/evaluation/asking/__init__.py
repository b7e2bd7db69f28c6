"""How samples are asked: of many caches at a time, by two engines, and on from where it was."""
