"""LightGBM heads over point-in-time frames."""
