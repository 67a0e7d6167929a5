"""Argo Rollouts as the lab runs it: its controller on loopback, its rules as a program, the CRDs argo/ counts on.

`make lab` builds all of it from Go modules; a test of it carries the marker `argo`.
"""

from tests.lab.argo.installation import ARGO_ROLLOUTS_VERSION, install, missing

__all__ = ["ARGO_ROLLOUTS_VERSION", "install", "missing"]
