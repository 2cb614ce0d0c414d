"""Commands that report, explain and run experiments."""
