"""`python -m benchmarks bilevel`: MAID and its baselines at equal cost, from all starts."""
