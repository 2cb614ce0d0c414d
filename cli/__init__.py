"""The command line: `qanchor-cli`. Modules here import nothing heavy; commands do, when they run."""
