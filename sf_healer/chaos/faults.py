"""The faults that can be injected away from Litmus. Today: pod-delete of named Pods, through the API."""

import asyncio

from sf_healer.adapters.cluster import ApiFailure
from sf_healer.adapters.threads import in_thread
from sf_healer.chaos import lints
from sf_healer.chaos.litmus import ChaosEngine
from sf_healer.chaos.questions import LabQuestions
from sf_healer.chaos.run import InjectionError


class LabFault:
    """Injects by the bindings of the questions."""

    def __init__(self, at: LabQuestions) -> None:
        self._at = at

    async def inject(self, engine: ChaosEngine) -> dict[str, str]:
        """Delete the named Pod and wait as long as the engine says; raises InjectionError."""
        if engine.experiment.name != lints.POD_DELETE or engine.spec.selectors is None:
            raise InjectionError(f"{engine.experiment.name} of this target cannot be injected here")
        at_once = engine.settings.get("FORCE", "false") == "true"
        killed = []
        for pods in engine.spec.selectors.pods:
            cluster = self._at.cluster(pods.namespace)
            for name in pods.names.split(","):
                failure = await in_thread(lambda name=name, at=cluster: at.delete_pod(name, at_once=at_once))  # type: ignore[misc]
                if isinstance(failure, ApiFailure):
                    raise InjectionError(f"{pods.namespace}/{name}: {failure.message}")
                killed.append(name)
        await asyncio.sleep(float(engine.settings["CHAOS_INTERVAL"]))
        return {"killed": ", ".join(killed)}
