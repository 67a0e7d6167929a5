"""The transport Faust finds under `batch://`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from faust.transport.drivers import aiokafka as driver

from sf_healer.transport.consumer import Consumer, OffsetReset
from sf_healer.transport.login import follow_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaProducer

    from sf_healer.transport.batch import BatchLimits


class Producer(driver.Producer):
    """Faust's aiokafka producer; its client follows the login of the app's credentials."""

    def _new_producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        producer = super()._new_producer(transactional_id)
        follow_credentials(producer.client, self.credentials)
        return producer


class Transport(driver.Transport):
    """Faust's aiokafka transport with our consumer; what an app declares lives here, one transport an app."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    Producer: ClassVar[type[Producer]] = Producer
    driver_version = f"batch, {driver.Transport.driver_version}"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.has_own_client_id = False
        self.batched_topics: dict[str, BatchLimits] = {}
        self.resets: list[OffsetReset] = []
        self.reset_callbacks: list[Callable[[OffsetReset], None]] = []
