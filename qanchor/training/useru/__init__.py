"""UserU: questions and answers made from the event log, for pre-training."""
