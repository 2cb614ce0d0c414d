"""Feast plug-ins, named by class path in feature_store.yaml: online store, compute engine, registry place."""
