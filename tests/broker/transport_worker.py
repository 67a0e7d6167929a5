"""A worker process that a test can kill: writes down every record it finished, then acknowledges the batch."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import faust

from sf_healer.transport import Batch, BatchLimits
from tests.broker.transport_lab import Reader


def main(bootstrap: str, topic: str, app_id: str, journal: str, directory: str) -> None:
    with Path(journal).open("a", buffering=1) as lines:

        async def write_down(batch: Batch) -> None:
            for record in batch:
                lines.write(f"{batch.partition} {record.offset}\n")
                await asyncio.sleep(0.001)  # slow enough to be killed in mid-batch

        reader = Reader(
            bootstrap, Path(directory), topic, app_id=app_id, limits=BatchLimits(max_records=50), hold=write_down
        )
        faust.Worker(reader.app, loglevel="WARN").execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
