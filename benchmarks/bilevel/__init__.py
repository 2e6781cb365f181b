"""`python -m benchmarks bilevel`: MAID from every first accuracy, beside its rivals at equal cost."""
