"""Conversations over one context, in SCBench's manner (arXiv 2412.10319), of any length."""
