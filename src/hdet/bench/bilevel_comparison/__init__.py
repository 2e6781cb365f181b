"""`hdet bench bilevel`: MAID from every first accuracy, beside its rivals at equal cost."""
