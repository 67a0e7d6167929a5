"""Traefik itself, for what the router of the canaries' lab only plays (make lab fetches it)."""

from tests.lab.traefik.installation import TRAEFIK_VERSION, install, missing
from tests.lab.traefik.server import Traefik

__all__ = ["TRAEFIK_VERSION", "Traefik", "install", "missing"]
