"""Probes, explanations and the report."""
