"""The Q-Anchor model: prefix, suffix, checkpoint."""
