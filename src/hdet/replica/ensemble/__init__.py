"""Who the replicas are, and the sync at which they meet."""
