"""The brokers that a test of whole workers is run on, each with the topics of sf-healer and the platform."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from sf_healer.local.broker import EmbeddedBroker
from tests.lab.worker import drop_topics, make_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

#: For a fixture's `params`; each names what `with_topics` lends.
BROKERS = [
    pytest.param("embedded", marks=pytest.mark.embedded),
    pytest.param("kafka_single", marks=pytest.mark.kafka),
]


@contextmanager
def with_topics(request: pytest.FixtureRequest) -> Iterator[str]:
    """Lend the broker that a fixture is asked for, by its address; a broker of the lab is left without topics."""
    if request.param == "embedded":
        with EmbeddedBroker() as broker:
            asyncio.run(make_topics(broker.bootstrap))
            yield broker.bootstrap
        return
    lent = request.getfixturevalue("kafka_single").bootstrap
    asyncio.run(make_topics(lent))
    yield lent
    asyncio.run(drop_topics(lent))
