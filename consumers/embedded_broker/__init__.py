"""A single-node Kafka-protocol broker on asyncio, for demos and tests. NOT for production.

No authentication, no replication, loopback only; data survives a killed process, not a power cut. It speaks
through the wire codecs of kafka-python, so any client with default settings works: consumer groups (range,
cooperative-sticky, static members), idempotent producers, transactions. Production is Apache Kafka, by
configuration alone: QANCHOR_KAFKA__BROKERS.
"""
