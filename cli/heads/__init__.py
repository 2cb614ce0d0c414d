"""Commands that train heads and score users."""
