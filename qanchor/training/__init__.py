"""Pre-training and soft-prompt tuning."""
