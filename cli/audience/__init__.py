"""Commands that search users."""
