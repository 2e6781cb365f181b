"""`python -m benchmarks federated`: rates from every start, and client selectors."""
