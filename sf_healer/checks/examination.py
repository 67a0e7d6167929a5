"""All checks together, in the order in which they are shown."""

import asyncio

from sf_healer.adapters.threads import in_thread
from sf_healer.checks import clocks, kafka, kubernetes, policy, versions, worker
from sf_healer.checks.findings import About, Finding
from sf_healer.checks.worker import Address
from sf_healer.settings import Settings

_ORDER = list(About)


async def examine(settings: Settings, running: Address) -> list[Finding]:
    """Look at all that a worker with these settings needs, and at one that runs; not to reach one is a finding too."""
    brokers, cluster, answered = await asyncio.gather(
        kafka.check(settings),
        in_thread(lambda: kubernetes.check(settings)),
        in_thread(lambda: list(worker.check(running))),
    )
    known = [clocks.HERE, *brokers.clocks, *([cluster.clock] if cluster.clock else [])]
    findings = [
        *versions.check(),
        *policy.check(settings),
        *brokers.findings,
        *cluster.findings,
        *clocks.compare(known),
        *answered,
    ]
    return sorted(findings, key=lambda finding: _ORDER.index(finding.about))
