"""Toxiproxy: TCP proxies in front of brokers that can be made slow over an HTTP API."""

from tests.lab.toxiproxy.installation import directory, install, missing
from tests.lab.toxiproxy.server import Toxiproxy

__all__ = ["Toxiproxy", "directory", "install", "missing"]
