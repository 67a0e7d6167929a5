"""docs/compatibility.md names the versions that the lab runs, the package asks for and the image has."""

from __future__ import annotations

import re

from tests.docs.compatibility import PAGE, REPOSITORY, markdown
from tests.lab.kafka import OLDEST_VERSION, VERSION
from tests.lab.kube.installation import KUBERNETES_VERSION


def test_the_page_is_made_from_what_is_installed():
    assert PAGE.read_text() == markdown(), "run: python -m tests.docs.compatibility > docs/compatibility.md"


def test_other_pages_name_the_same_versions():
    lab = (REPOSITORY / "docs" / "lab.md").read_text()
    assert set(re.findall(r"Apache Kafka (\d+\.\d+\.\d+)", lab)) == {VERSION}
    assert set(re.findall(r"Kubernetes (\d+\.\d+\.\d+)", lab)) == {KUBERNETES_VERSION}
    assert f"has installed {OLDEST_VERSION} too" in lab
