"""Commands that write embeddings and put them in service."""
