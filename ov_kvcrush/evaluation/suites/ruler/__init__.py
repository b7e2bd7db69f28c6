"""RULER (arXiv 2404.06654): synthetic tasks of any length, written from the paper's description."""
