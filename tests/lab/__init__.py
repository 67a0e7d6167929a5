"""The lab: real Apache Kafka and a real Kubernetes control plane, as processes on loopback.

Only installing, starting, breaking and ending real components lives here; what they prove lives in the
tests that ask for them (fixtures in tests/conftest.py). Nothing here imports sf_healer.
"""
