"""What moves a score or an embedding: events, users, attention."""
