"""Commands that set up and watch an installation."""
