"""Where the names of an engine are, away from the cluster it was written for: a small TOML file, lab.toml.

[addresses]                                    # what an engine asks = what is asked here
"http://sf-healer.kafka.svc:6066" = "http://127.0.0.1:6066"
[namespaces]
stf = "lab-3f2a"
[cluster]
kubeconfig = "admin.kubeconfig"                # beside this file
kubectl = ["kubectl"]                          # what cmdProbes run
[toxiproxy]
url = "http://127.0.0.1:8474"
[toxiproxy.proxies]                            # a destination of an engine = what everything to it goes through
"kafka-brokers.kafka.svc|9093" = ["broker-0", "broker-1", "broker-2"]
"""

from pathlib import Path

import msgspec


class BindingsError(ValueError):
    """The file is not as it has to be; says where."""


class ClusterBinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the cluster is reached; without a kubeconfig as usual."""

    kubeconfig: str = ""
    kubectl: tuple[str, ...] = ("kubectl",)


class ToxiproxyBinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where latency is injected: the API of toxiproxy, and the proxies that stand for each `host|port`."""

    url: str = ""
    proxies: dict[str, tuple[str, ...]] = {}


class Bindings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands for what. An address or a namespace that is not named stands for itself."""

    addresses: dict[str, str] = {}
    namespaces: dict[str, str] = {}
    cluster: ClusterBinding = ClusterBinding()
    toxiproxy: ToxiproxyBinding = ToxiproxyBinding()

    def url(self, told: str) -> str:
        """Give the URL to ask: the longest address that it begins with is replaced."""
        for there in sorted(self.addresses, key=len, reverse=True):
            if told == there or told.startswith(f"{there}/"):
                return self.addresses[there] + told.removeprefix(there)
        return told

    def namespace(self, told: str) -> str:
        """Give the namespace that stands for one."""
        return self.namespaces.get(told, told)


def read(file: Path) -> Bindings:
    """Read the file; raises BindingsError."""
    try:
        found = msgspec.toml.decode(file.read_bytes(), type=Bindings)
    except (msgspec.MsgspecError, OSError, ValueError) as problem:
        raise BindingsError(f"{file}: {problem}") from None
    told = found.cluster.kubeconfig
    at = str((file.parent / told).resolve()) if told else ""
    return msgspec.structs.replace(found, cluster=msgspec.structs.replace(found.cluster, kubeconfig=at))
