"""Heads and embeddings in service: drift, calibration as labels mature, label delay, freshness, alarms."""
