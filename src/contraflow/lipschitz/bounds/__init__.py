"""Norms of layers from above, in float64."""
