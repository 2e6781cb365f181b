"""torchtitan's protocol for a feature that may change how a run converges."""
