"""Benchmarks behind the `hdet` command: tasks, runs, records, plots and reports."""
