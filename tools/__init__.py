"""tools: stress test, experiments, benchmarks; not part of the package."""
