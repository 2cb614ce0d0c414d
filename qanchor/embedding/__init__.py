"""Backfill of scenario embeddings into the stores."""
