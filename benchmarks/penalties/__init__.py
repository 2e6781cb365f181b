"""`python -m benchmarks penalties`: learned penalties beside a grid search of scikit-learn."""
