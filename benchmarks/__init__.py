"""Benchmarks: `python -m benchmarks.NAME [--quick] [--json FILE]` prints a table and writes its figures."""
