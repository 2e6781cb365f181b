"""What HDET adds to a training step."""
