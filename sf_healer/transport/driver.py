"""The transport Faust finds under `batch://`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from faust.transport.drivers import aiokafka as driver

from sf_healer.transport.consumer import Consumer, OffsetReset

if TYPE_CHECKING:
    from collections.abc import Callable

    from sf_healer.transport.batch import BatchLimits


class Transport(driver.Transport):
    """Faust's aiokafka transport with our consumer; what an app declares lives here, one transport an app."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    driver_version = f"batch, {driver.Transport.driver_version}"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batched_topics: dict[str, BatchLimits] = {}
        self.resets: list[OffsetReset] = []
        self.reset_callbacks: list[Callable[[OffsetReset], None]] = []
