"""The report of all scenarios: figures, findings in words, pages."""
