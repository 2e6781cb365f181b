"""`python -m benchmarks bilevel-speed`: MAID's CPU time beside the same algorithm in NumPy."""
