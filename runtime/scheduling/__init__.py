"""Who runs next, who fits, and how a request begins."""
