"""The HDET paper's ablation, and controls that it lacks."""
