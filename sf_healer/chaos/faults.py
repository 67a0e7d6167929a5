"""Faults that can be injected away from Litmus: pod-delete of named Pods by the API, latency by toxiproxy."""

import asyncio

from sf_healer.adapters.cluster import ApiFailure
from sf_healer.adapters.threads import in_thread
from sf_healer.chaos import lints
from sf_healer.chaos.latency import Latency, LatencyError, slowed
from sf_healer.chaos.litmus import ChaosEngine, NamedPods
from sf_healer.chaos.questions import LabQuestions
from sf_healer.chaos.run import InjectionError


class LabFault:
    """Injects by the bindings of the questions."""

    def __init__(self, at: LabQuestions) -> None:
        self._at = at

    async def inject(self, engine: ChaosEngine) -> dict[str, str]:
        """Hold the fault for as long as the engine says and take it back; raises InjectionError."""
        selectors = engine.spec.selectors
        if engine.experiment.name == lints.POD_DELETE and selectors is not None and selectors.pods:
            return await self._delete(engine, selectors.pods)
        if engine.experiment.name == lints.NETWORK_LATENCY:
            return await self._slow_down(engine)
        raise InjectionError(f"{engine.experiment.name} of this target cannot be injected here")

    async def _delete(self, engine: ChaosEngine, selected: tuple[NamedPods, ...]) -> dict[str, str]:
        at_once = engine.settings.get("FORCE", "false") == "true"
        killed = []
        for pods in selected:
            cluster = self._at.cluster(pods.namespace)
            for name in pods.names.split(","):
                failure = await in_thread(lambda name=name, at=cluster: at.delete_pod(name, at_once=at_once))  # type: ignore[misc]
                if isinstance(failure, ApiFailure):
                    raise InjectionError(f"{pods.namespace}/{name}: {failure.message}")
                killed.append(name)
        await asyncio.sleep(float(engine.settings["CHAOS_INTERVAL"]))
        return {"killed": ", ".join(killed)}

    async def _slow_down(self, engine: ChaosEngine) -> dict[str, str]:
        settings, toxiproxy = engine.settings, self._at.bindings.toxiproxy
        latency = Latency(int(settings["NETWORK_LATENCY"]), int(settings.get("JITTER", "0")))
        destinations = [each for each in settings.get("DESTINATION_HOSTS", "").split(",") if each]
        if not destinations:
            raise InjectionError("latency to every destination cannot be injected here: DESTINATION_HOSTS is empty")
        if unknown := [each for each in destinations if each not in toxiproxy.proxies]:
            raise InjectionError(f"the bindings name no proxies for {', '.join(unknown)}")
        proxies = sorted({name for each in destinations for name in toxiproxy.proxies[each]})
        try:
            async with slowed(toxiproxy.url, proxies, latency) as measured:
                await asyncio.sleep(float(settings["TOTAL_CHAOS_DURATION"]))
        except LatencyError as problem:
            raise InjectionError(str(problem)) from None
        return measured
