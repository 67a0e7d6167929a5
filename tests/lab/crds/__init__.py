"""The CRDs that our manifests are checked by, from the packages of who defines them; none is in this repository."""

from tests.lab.crds.installation import files, install, missing

__all__ = ["files", "install", "missing"]
