"""Commands on events, labels and Kafka."""
