"""Prometheus and promtool as Debian ships them, unpacked into the lab's cache: nothing is installed on the machine."""

from tests.lab.prometheus.installation import install, missing, program

__all__ = ["install", "missing", "program"]
