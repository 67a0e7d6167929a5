"""The small cluster that the tests of a file share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sf_healer.local.cluster import LocalCluster
from tests.cluster.small import IDLE_PODS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[LocalCluster]:
    with LocalCluster(command=IDLE_PODS) as started:
        yield started
