"""MAID in this library against the same method by hand in NumPy."""
