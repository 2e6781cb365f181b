"""How the search goes with 2 to 1,024 replicas."""
