"""A cluster as sf-healer finds it: the operators' CRDs are there, and Kafka's namespace lets no Pod be anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab import crds
from tests.lab.waiting import until
from tests.manifests.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.kube import ControlPlane

#: The API server publishes a new kind a moment after it has taken its definition.
PUBLISHED_SECONDS = 60.0


@pytest.fixture(scope="module")
def platform(control_plane: ControlPlane) -> Iterator[Platform]:
    """Install the CRDs and make the namespaces; what a test applied is taken away again."""
    given = [argument for path in crds.files() for argument in ("-f", str(path))]
    control_plane.kubectl("apply", "--server-side", *given)
    control_plane.kubectl("wait", "--for=condition=Established", f"--timeout={PUBLISHED_SECONDS:g}s", *given)
    made = Platform(control_plane)
    made.make_namespaces()
    until(made.knows_every_kind, "the kinds to be served", seconds=PUBLISHED_SECONDS)
    yield made
    control_plane.kubectl("delete", "--ignore-not-found", *given)
