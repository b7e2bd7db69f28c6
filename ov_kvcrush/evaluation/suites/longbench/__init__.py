"""LongBench (arXiv 2308.14508): real documents and code, its English tasks with its own prompts."""
