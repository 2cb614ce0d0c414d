"""What the platform knows about itself, in SQL: scenarios, versions, jobs, manifests, the Kafka ledger."""
