"""What HDET costs a training run, on one machine and, by a model, on many."""
