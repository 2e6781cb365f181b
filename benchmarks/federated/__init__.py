"""`python -m benchmarks federated`: rates from every start, and client selection, beside their rivals."""
