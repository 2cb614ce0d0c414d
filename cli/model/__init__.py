"""Commands that train models and prompts."""
