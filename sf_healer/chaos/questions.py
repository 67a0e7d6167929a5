"""Asks the probes of an engine for real: HTTP, Prometheus, the Kubernetes API; of commands only kubectl, grep and wc.

No shell: a cmdProbe is split as a shell would, run as a program, and what comes after its pipes is done here.
"""

import asyncio
import re
import shlex
import urllib.parse
from itertools import pairwise

from sf_healer.adapters.cluster import ApiFailure, Cluster, Kind
from sf_healer.adapters.http import WorkerRefusedError, WorkerUnreachableError, get_json, get_status
from sf_healer.adapters.threads import in_thread
from sf_healer.chaos.bindings import Bindings
from sf_healer.chaos.experiment import Answer, Saw
from sf_healer.chaos.litmus import CommandInputs, HttpInputs, KubernetesInputs, Probe, PrometheusInputs, seconds


class LabQuestions:
    """Asks by the bindings."""

    def __init__(self, bindings: Bindings) -> None:
        self.bindings = bindings
        self._clusters: dict[str, Cluster] = {}

    async def ask(self, probe: Probe) -> Answer:
        """Ask a probe once."""
        limit = seconds(probe.run_properties.probe_timeout)
        if (http := probe.http) is not None:
            return await in_thread(lambda: self._page(http, limit))
        if (prometheus := probe.prometheus) is not None:
            return await in_thread(lambda: self._query(prometheus, limit))
        if (kubernetes := probe.kubernetes) is not None:
            return await in_thread(lambda: self._look(kubernetes))
        if probe.command is not None:
            return await self._command(probe.command)
        return Answer(Saw.TROUBLE, "a probe without inputs")

    def _page(self, inputs: HttpInputs, limit: float) -> Answer:
        try:
            return Answer(Saw.VALUE, str(get_status(self.bindings.url(inputs.url), timeout_seconds=limit)))
        except WorkerUnreachableError as problem:
            return Answer(Saw.NOTHING, str(problem))

    def _query(self, inputs: PrometheusInputs, limit: float) -> Answer:
        asked = urllib.parse.urlencode({"query": inputs.query})
        try:
            told = get_json(f"{self.bindings.url(inputs.endpoint)}/api/v1/query?{asked}", timeout_seconds=limit)
            data = told["data"]
            if data["resultType"] == "scalar":
                return Answer(Saw.VALUE, str(data["result"][1]))
            rows = data["result"]
        except (WorkerUnreachableError, WorkerRefusedError, KeyError, TypeError) as problem:
            return Answer(Saw.TROUBLE, f"Prometheus: {problem}")
        if len(rows) != 1:  # as Litmus has it: no row and two rows are errors
            return Answer(Saw.TROUBLE, f"{len(rows)} rows, 1 wanted")
        return Answer(Saw.VALUE, str(rows[0]["value"][1]))

    def _look(self, inputs: KubernetesInputs) -> Answer:
        kind = Kind(inputs.group, inputs.version, inputs.resource)
        found = self.cluster(inputs.namespace).list_objects(kind, inputs.label_selector, inputs.field_selector)
        if isinstance(found, ApiFailure):
            return Answer(Saw.TROUBLE, found.message)
        return Answer(Saw.THERE if found else Saw.NOTHING, ", ".join(each["metadata"]["name"] for each in found))

    def cluster(self, namespace: str) -> Cluster:
        """Give the client for a namespace as the engine calls it."""
        at = self.bindings.namespace(namespace)
        if at not in self._clusters:
            kubeconfig = self.bindings.cluster.kubeconfig or None
            self._clusters[at] = Cluster.connect(namespace=at, kubeconfig=kubeconfig)
        return self._clusters[at]

    async def _command(self, inputs: CommandInputs) -> Answer:
        first, *rest = (shlex.split(part) for part in inputs.command.split("|"))
        if first[:1] != ["kubectl"] or "get" not in first:
            return Answer(Saw.TROUBLE, f"{first[:1]} is not allowed here")
        given = [self.bindings.namespace(each) if before == "-n" else each for before, each in pairwise(first)]
        kubeconfig = self.bindings.cluster.kubeconfig
        program, *own = self.bindings.cluster.kubectl
        process = await asyncio.create_subprocess_exec(
            program,
            *own,
            *([f"--kubeconfig={kubeconfig}"] if kubeconfig else []),
            *given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate()
        finally:
            if process.returncode is None:  # the probe's time is over
                process.kill()
                await process.wait()
        if process.returncode != 0:
            return Answer(Saw.TROUBLE, err.decode(errors="replace").strip())
        text = out.decode(errors="replace")
        for words in rest:
            filtered = _filtered(words, text)
            if filtered is None:
                return Answer(Saw.TROUBLE, f"{words[0] if words else 'nothing'} is not allowed here")
            text = filtered
        return Answer(Saw.VALUE, text.strip())


def _filtered(words: list[str], text: str) -> str | None:
    match words:
        case ["wc", "-l"]:
            return str(text.count("\n"))
        case ["grep", pattern]:
            return "".join(f"{line}\n" for line in text.splitlines() if re.search(pattern, line))
        case _:
            return None
