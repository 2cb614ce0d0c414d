"""Where consumed events go."""
