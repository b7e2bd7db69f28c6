"""What the benchmarks share: models, workloads, contestants, clocks, reports."""
