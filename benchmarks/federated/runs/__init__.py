"""Federated tasks, engines and benchmarks: behind `hdet federate` and `hdet bench`."""
