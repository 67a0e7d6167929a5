"""Brokers without topics, for tests that hold of each kind of broker; whole workers have tests/broker/brokers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sf_healer.local.broker import EmbeddedBroker
from sf_healer.settings import Identity, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


@pytest.fixture(
    params=[
        pytest.param("broker", id="embedded", marks=pytest.mark.embedded),
        pytest.param("kafka_single", id="kafka", marks=pytest.mark.kafka),
    ]
)
def bootstrap(request: pytest.FixtureRequest) -> str:
    """Give the address of each kind of broker in turn."""
    return request.getfixturevalue(request.param).bootstrap


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Give the settings of an embedded broker of its own, which commands find in their environment."""
    with EmbeddedBroker() as broker:
        monkeypatch.setenv("SF_HEALER_BROKER_URL", f"kafka://{broker.bootstrap}")
        yield Settings(
            broker_url=f"kafka://{broker.bootstrap}", identity=Identity.CONVENTION, demo_accept_create_time=True
        )
