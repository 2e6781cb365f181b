"""Penalties by MAID, where scikit-learn's users search a grid."""
