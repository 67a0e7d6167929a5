"""Local stand-ins for broker, cluster and loaders, shared by the demo and the tests."""
