"""All checks together, in the order in which they are shown."""

import asyncio

from sf_healer.adapters.threads import in_thread
from sf_healer.checks import clocks, kafka, kubernetes, policy, versions
from sf_healer.checks.findings import About, Finding
from sf_healer.settings import Settings

_ORDER = list(About)


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything a worker with these settings needs; what cannot be reached is a finding too."""
    brokers, cluster = await asyncio.gather(
        kafka.check(settings),
        in_thread(lambda: kubernetes.check(settings)),
    )
    known = [clocks.HERE, *brokers.clocks, *([cluster.clock] if cluster.clock else [])]
    findings = [
        *versions.check(),
        *policy.check(settings),
        *brokers.findings,
        *cluster.findings,
        *clocks.compare(known),
    ]
    return sorted(findings, key=lambda finding: _ORDER.index(finding.about))
