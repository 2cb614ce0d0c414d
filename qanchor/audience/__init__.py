"""Indexes and lookalike search."""
