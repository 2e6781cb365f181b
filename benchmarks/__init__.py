"""The studies behind every figure that the documentation gives; never installed."""
