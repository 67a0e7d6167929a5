"""The rollouts controller and a program of its rules, built from its Go module into the lab's cache, with the CRDs.

Two changes are made to a copy of the module: the controller listens on loopback, and cmd/checks is ours.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tests.lab import cache
from tests.lab.golang import go, module

ARGO_ROLLOUTS_VERSION = "1.9.1"  # the newest that Go 1.26 builds; 1.10 was a candidate when this was written
TRAEFIK_VERSION = "3.7.13"
GATEWAY_API_VERSION = "1.6.1"

CHECKS = Path(__file__).with_name("checks") / "main.go"
_LISTENS = 'listenAddr                         = "0.0.0.0:%d"'  # controller/controller.go
_OURS = _LISTENS.replace("0.0.0.0", "127.0.0.1")
_TRAEFIK_CRDS = "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"
_HTTP_ROUTE_CRD = "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"


def directory() -> Path:
    """Give the directory they are cached in, whether or not it is there; another input, another place."""
    versions = f"{ARGO_ROLLOUTS_VERSION} {TRAEFIK_VERSION} {GATEWAY_API_VERSION} {_OURS}"
    inputs = hashlib.sha256(versions.encode() + CHECKS.read_bytes())
    return cache.root() / f"argo-rollouts-{ARGO_ROLLOUTS_VERSION}-{inputs.hexdigest()[:12]}"


def controller() -> Path:
    """Give the controller's binary."""
    return directory() / "rollouts-controller"


def checks() -> Path:
    """Give the program of checks/main.go."""
    return directory() / "checks"


def manifests() -> Path:
    """Give the manifests of the module: kustomizations of the controller, its rights, CRDs."""
    return directory() / "manifests"


def crds() -> tuple[Path, ...]:
    """Give the CRD files of Argo Rollouts, Traefik and Gateway API."""
    return tuple(sorted((directory() / "crds").iterdir()))


def missing() -> str | None:
    """Give the reason why none of it can be used here, None when it can."""
    return None if directory().is_dir() else f"Argo Rollouts {ARGO_ROLLOUTS_VERSION} is not built: run `make lab`"


def install() -> bool:
    """Build all of it into the cache; say whether there was anything to do.

    Minutes when Go's own build cache is empty. Raises RuntimeError without Go, or when a module cannot be fetched
    or built.
    """
    return cache.build_once(directory().name, _build)


def _build(at: Path) -> None:
    rollouts = module(f"github.com/argoproj/argo-rollouts@v{ARGO_ROLLOUTS_VERSION}", at)
    shutil.copytree(rollouts / "manifests", at / "manifests", copy_function=shutil.copyfile)
    _copy_crds(rollouts, at)
    source = at / "source"
    shutil.copytree(rollouts, source, copy_function=shutil.copyfile)
    for path in (at, *at.rglob("*")):  # a module is read only, and so are its copied directories
        if path.is_dir():
            path.chmod(0o755)
    listening = source / "controller" / "controller.go"
    text = listening.read_text()
    if text.count(_LISTENS) != 1:
        raise RuntimeError(f"{listening.name} does not listen as it did: look at {_LISTENS!r}")
    listening.write_text(text.replace(_LISTENS, _OURS))
    (source / "cmd" / "checks").mkdir()
    shutil.copy(CHECKS, source / "cmd" / "checks")
    for name in ("rollouts-controller", "checks"):
        flags = ("-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w")
        go(source, "build", *flags, "-o", str(at / name), f"./cmd/{name}")
    shutil.rmtree(source)


def _copy_crds(rollouts: Path, at: Path) -> None:
    into = at / "crds"
    into.mkdir()
    for path in (rollouts / "manifests" / "crds").glob("*-crd.yaml"):
        shutil.copyfile(path, into / path.name)
    traefik = module(f"github.com/traefik/traefik/v3@v{TRAEFIK_VERSION}", at)
    shutil.copyfile(traefik / _TRAEFIK_CRDS, into / "traefik.yaml")
    gateway = module(f"sigs.k8s.io/gateway-api@v{GATEWAY_API_VERSION}", at)
    shutil.copyfile(gateway / _HTTP_ROUTE_CRD, into / "httproutes.yaml")
