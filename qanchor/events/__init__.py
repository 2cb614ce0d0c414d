"""User events: their schema, their way into the log, and histories as of a moment."""
