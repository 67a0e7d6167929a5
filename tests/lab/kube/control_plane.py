"""A Kubernetes control plane as processes: started, asked, broken on purpose, ended.

Requests go over plain HTTPS, not through the client library that is under test elsewhere.
"""

from __future__ import annotations

import csv
import http.client
import json
import secrets
import ssl
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import msgspec

from tests.lab.kube.installation import STAGES, binary, missing
from tests.lab.ports import LOOPBACK, free_ports, is_answering
from tests.lab.process import Recorded, Server, stop_together
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

START_SECONDS = 60.0  # of one component; all together take 8 s on two idle cores
STOP_SECONDS = 10.0
REQUEST_SECONDS = 10.0
TOKEN_SECONDS = 24 * 3600
NODE = "kwok-0"
#: Go collects garbage once a heap has grown by this much; with its own 100 that is an eighth of an API server's work.
GARBAGE_PERCENT = 200


class Answer(msgspec.Struct, frozen=True):
    """What the API server answered: HTTP status and the JSON body."""

    status: int
    body: dict[str, Any]


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok with one Node, all on loopback.

    All calls block; from a coroutine use asyncio.to_thread.
    """

    def __init__(self, directory: Path, *, outlives_us: bool = False) -> None:
        if (reason := missing()) is not None:
            raise RuntimeError(reason)
        self.directory = directory.resolve()
        self._binary = binary()
        self._outlives_us = outlives_us
        self._ports = _Ports(*free_ports(6))
        self._pki = self.directory / "pki"
        self._pki.mkdir(parents=True, exist_ok=True)
        self._pki.chmod(0o700)
        self.server_url = f"https://{LOOPBACK}:{self._ports.apiserver}"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self._write_pki()
        self._admin_token = self._write_users()
        self._trust = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        self._servers = {name: self._server(name, flags) for name, flags in self._flags().items()}

    @classmethod
    def start(cls, directory: Path, *, outlives_us: bool = False) -> Self:
        """Start a control plane in `directory`; returns when its Node is Ready and Pods can be created.

        Raises StartFailed with the tail of the log, NotInTime when the Node does not become Ready, and
        RuntimeError when the binary is not built.
        """
        plane = cls(directory, outlives_us=outlives_us)
        try:
            plane._start_all()
        except BaseException:
            plane.stop()
            raise
        return plane

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> Answer:
        """Send one request, as the admin unless `token` says otherwise.

        Raises OSError when nobody answers within 10 s.
        """
        connection = http.client.HTTPSConnection(
            LOOPBACK, self._ports.apiserver, timeout=REQUEST_SECONDS, context=self._trust
        )
        headers = {"Authorization": f"Bearer {token or self._admin_token}", "Accept": "application/json"}
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers=headers if body is None else {**headers, "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return Answer(response.status, json.loads(text) if text.startswith(b"{") else {})

    def kubectl(self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> str:
        """Run kubectl, as the admin unless `kubeconfig` says otherwise, and give its output.

        Raises RuntimeError with what it wrote to standard error.
        """
        done = subprocess.run(
            [self._binary, "kubectl", f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def create_namespace(self, name: str | None = None) -> str:
        """Create a namespace (with a name of its own if none is given) and give its name.

        Returns when its default ServiceAccount is there, without which no Pod can be created.
        """
        name = name or f"lab-{secrets.token_hex(4)}"
        self._create("/api/v1/namespaces", {"metadata": {"name": name}})
        until(
            lambda: self.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default").status == 200,
            f"the default ServiceAccount of {name}",
            seconds=START_SECONDS,
        )
        return name

    def service_account(self, namespace: str, name: str, rules: Sequence[Mapping[str, Any]]) -> Path:
        """Create a ServiceAccount with a Role of these rules in `namespace`; give its kubeconfig's place.

        `rules` as in RBAC: [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]}]. Returns when
        the API server's authorizer knows the rights (it learns them by a watch). The token holds for a day.

        Load it with `kubernetes.config.new_client_from_config(str(path))`. Never by changing the token in a
        copy of the admin's Configuration: the copy keeps the hook that puts the admin's token back.
        """
        role_ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        metadata = {"name": name}
        core, rbac = "/api/v1", "/apis/rbac.authorization.k8s.io/v1"
        accounts = f"{core}/namespaces/{namespace}/serviceaccounts"
        self._create(accounts, {"metadata": metadata})
        self._create(f"{rbac}/namespaces/{namespace}/roles", {"metadata": metadata, "rules": list(rules)})
        self._create(
            f"{rbac}/namespaces/{namespace}/rolebindings",
            {"metadata": metadata, "roleRef": role_ref, "subjects": [subject]},
        )
        return self.kubeconfig_of(namespace, name, rules)

    def kubeconfig_of(self, namespace: str, name: str, rules: Sequence[Mapping[str, Any]] = ()) -> Path:
        """Give the kubeconfig's place of a ServiceAccount that is there; returns when `rules` hold for it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        issued = self._create(path, {"spec": {"expirationSeconds": TOKEN_SECONDS}})
        token = str(issued["status"]["token"])
        for rule in rules:
            until(
                partial(self._is_allowed, token, namespace, rule),
                f"the rights of {namespace}/{name}",
                seconds=START_SECONDS,
            )
        return self._write_kubeconfig(f"{namespace}-{name}", token, namespace=namespace)

    def kill_apiserver(self) -> None:
        """Crash the API server (SIGKILL); etcd keeps the state and the others go on trying."""
        self._servers["kube-apiserver"].kill()

    def restart_apiserver(self) -> None:
        """Start the API server again on its port and state; returns when it says it is ready."""
        self._servers["kube-apiserver"].stop(patience_seconds=STOP_SECONDS)
        self._start_server("kube-apiserver")

    def pause_apiserver(self) -> None:
        """Freeze the API server (SIGSTOP): it accepts connections and answers nothing."""
        self._servers["kube-apiserver"].pause()

    def resume_apiserver(self) -> None:
        """Let a frozen API server go on (SIGCONT)."""
        self._servers["kube-apiserver"].resume()

    def silence_node(self) -> None:
        """Let the kubelet say nothing more, as a node that dies (SIGSTOP); `make_whole` brings it back."""
        self._servers["kwok"].pause()

    def make_whole(self) -> None:
        """Resume and restart whatever a test left paused or dead."""
        for name, server in self._servers.items():
            if server.is_paused:
                server.resume()
            if not server.is_alive:
                self._start_server(name)

    def stop(self) -> None:
        """End all components; the directory stays."""
        stop_together(
            (server for name, server in self._servers.items() if name != "etcd"),
            patience_seconds=STOP_SECONDS,
        )
        self._servers["etcd"].stop(patience_seconds=STOP_SECONDS)  # last: the API server waits for it

    def recorded(self) -> tuple[Recorded, ...]:
        """Give what another interpreter needs to end the components."""
        return tuple(server.recorded() for server in self._servers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_all(self) -> None:
        for name in ("etcd", "kube-apiserver"):
            self._start_server(name)
        together = ("kube-controller-manager", "kube-scheduler", "kwok")
        for name in together:
            self._servers[name].start()
        self._create("/api/v1/nodes", _node(), may_exist=True)  # in a directory that was used before
        for name in together:
            self._wait_for_server(name)
        until(self._node_is_ready, "the Node to be Ready", seconds=START_SECONDS)
        default = "/api/v1/namespaces/default/serviceaccounts/default"
        until(
            lambda: self.call("GET", default).status == 200,
            "the default ServiceAccount",
            seconds=START_SECONDS,
        )

    def _start_server(self, name: str) -> None:
        self._servers[name].start()
        self._wait_for_server(name)

    def _wait_for_server(self, name: str) -> None:
        ready: dict[str, Callable[[], bool]] = {
            "etcd": partial(is_answering, self._ports.etcd),
            "kube-apiserver": self._apiserver_is_ready,
            "kube-controller-manager": partial(is_answering, self._ports.controllers),
            "kube-scheduler": partial(is_answering, self._ports.scheduler),
            "kwok": partial(is_answering, self._ports.kwok),
        }
        self._servers[name].wait_until(ready[name], seconds=START_SECONDS)

    def _apiserver_is_ready(self) -> bool:
        try:
            return self.call("GET", "/readyz").status == 200
        except OSError:
            return False

    def _node_is_ready(self) -> bool:
        conditions = self.call("GET", f"/api/v1/nodes/{NODE}").body.get("status", {}).get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _is_allowed(self, token: str, namespace: str, rule: Mapping[str, Any]) -> bool:
        asked = {
            "namespace": namespace,
            "verb": rule["verbs"][0],
            "group": rule["apiGroups"][0],
            "resource": rule["resources"][0].partition("/")[0],
            "subresource": rule["resources"][0].partition("/")[2],
        }
        answer = self.call(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            {"spec": {"resourceAttributes": asked}},
            token=token,
        )
        return answer.status == 201 and bool(answer.body["status"]["allowed"])

    def _create(self, path: str, body: Mapping[str, Any], *, may_exist: bool = False) -> dict[str, Any]:
        answer = self.call("POST", path, body)
        if answer.status != 201 and not (may_exist and answer.status == 409):
            raise RuntimeError(f"POST {path}: {answer.status} {answer.body.get('message', '')}")
        return answer.body

    def _server(self, name: str, flags: Sequence[str]) -> Server:
        command = ["env", f"GOGC={GARBAGE_PERCENT}", str(self._binary), name, *flags]
        return Server(name, command, log=self.directory / f"{name}.log", outlives_us=self._outlives_us)

    def _write_pki(self) -> None:
        done = subprocess.run([self._binary, "pki", self._pki], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)

    def _write_users(self) -> str:
        """Write a token and a kubeconfig for each component and for the admin; give the admin's token."""
        users = {
            "admin": ("admin", "system:masters"),
            "kube-controller-manager": ("system:kube-controller-manager", ""),
            "kube-scheduler": ("system:kube-scheduler", ""),
            "kwok": ("kwok", "system:masters"),  # it plays every Node at once
        }
        tokens = {name: secrets.token_hex(16) for name in users}
        with (self._pki / "tokens.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            for name, (user, groups) in users.items():
                rows.writerow([tokens[name], user, f"{name}-uid", groups])
        for name, token in tokens.items():
            self._write_kubeconfig(name, token)
        return tokens["admin"]

    def _write_kubeconfig(self, name: str, token: str, *, namespace: str = "default") -> Path:
        cluster = {"server": self.server_url, "certificate-authority": str(self._pki / "ca.crt")}
        context = {"cluster": "lab", "user": name, "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": context}],
            "current-context": "lab",
        }
        path = self.directory / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=1))  # JSON is YAML
        return path

    def _flags(self) -> dict[str, list[str]]:
        """Give each component's command line, in the order in which they start."""
        ports, pki = self._ports, self._pki
        peer, client = f"http://{LOOPBACK}:{ports.etcd_peer}", f"http://{LOOPBACK}:{ports.etcd}"
        return {
            "etcd": [
                *("--name=lab", f"--data-dir={self.directory / 'etcd'}"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                f"--initial-cluster=lab={peer}",
                "--unsafe-no-fsync",  # the lab crashes processes, never the machine
            ],
            "kube-apiserver": [
                *(f"--etcd-servers={client}", f"--secure-port={ports.apiserver}"),
                *(f"--bind-address={LOOPBACK}", f"--advertise-address={LOOPBACK}"),
                "--endpoint-reconciler-type=none",  # it refuses to publish a loopback address
                *(f"--tls-cert-file={pki / 'server.crt'}", f"--tls-private-key-file={pki / 'server.key'}"),
                *(f"--client-ca-file={pki / 'ca.crt'}", f"--token-auth-file={pki / 'tokens.csv'}"),
                *("--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16"),
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={pki / 'sa.key'}",
                f"--service-account-signing-key-file={pki / 'sa.key'}",
            ],
            "kube-controller-manager": [
                *self._component_flags("kube-controller-manager", ports.controllers),
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={pki / 'sa.key'}",
                f"--root-ca-file={pki / 'ca.crt'}",
            ],
            "kube-scheduler": self._component_flags("kube-scheduler", ports.scheduler),
            "kwok": [
                *(f"--kubeconfig={self.directory / 'kwok.kubeconfig'}", f"--config={STAGES}"),
                *("--manage-all-nodes=true", "--node-lease-duration-seconds=40", "--cidr=10.0.0.0/24"),
                *(f"--node-ip={LOOPBACK}", f"--node-port={ports.kwok}"),
                f"--server-address={LOOPBACK}:{ports.kwok}",
            ],
        }

    def _component_flags(self, name: str, port: int) -> list[str]:
        kubeconfig = self.directory / f"{name}.kubeconfig"
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            *(f"--bind-address={LOOPBACK}", f"--secure-port={port}"),
            "--leader-elect=false",  # there is one of each
        ]


class _Ports(msgspec.Struct, frozen=True):
    etcd: int
    etcd_peer: int
    apiserver: int
    controllers: int
    scheduler: int
    kwok: int


def _node() -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {"metadata": {"name": NODE, "labels": {"type": "kwok", **labels}}}
