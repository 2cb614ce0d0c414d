"""qanchor: one embedding per user and business scenario, as ordinary to use as any feature."""

__version__ = "0.1.0"
