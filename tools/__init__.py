"""tools: what is not part of the package: stress, experiments, benchmarks."""
