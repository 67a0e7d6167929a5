"""Adapters: the only modules that talk to Kafka admin, Kubernetes, HTTP, metrics and logs."""
