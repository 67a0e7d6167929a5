"""sf-healer: finds stuck and failed Jobs from their Kafka telemetry and restarts them."""

__version__ = "0.1.0"
