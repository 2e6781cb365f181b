"""`Explorer`: replicas that differ in hyperparameters, and learn from what they see."""
