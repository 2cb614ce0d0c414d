"""Kafka consumers: events from a topic into the event log, exactly once."""
