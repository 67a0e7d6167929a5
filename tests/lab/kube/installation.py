"""The control plane's one binary, built from Go modules into the lab's cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.lab import cache
from tests.lab.golang import go

KUBERNETES_VERSION = "1.36.3"
ETCD_VERSION = "3.6.14"  # Debian's 3.4 starts, but lacks the watch progress that WatchList clients wait for
KWOK_VERSION = "0.8.0"

SOURCES = Path(__file__).with_name("kubelab")
BUILD_INPUTS = ("go.mod", "go.sum", "main.go", "pki.go")
STAGES = SOURCES / "kwok-stages.yaml"


def binary() -> Path:
    """Give the cached binary's place, whether or not it is there; another build input, another place."""
    inputs = hashlib.sha256(_linker_flags().encode())
    for name in BUILD_INPUTS:
        inputs.update((SOURCES / name).read_bytes())
    return cache.root() / f"kubelab-{inputs.hexdigest()[:12]}" / "kubelab"


def missing() -> str | None:
    """Give the reason why a control plane cannot be started here, None when it can."""
    if not binary().is_file():
        return f"the Kubernetes {KUBERNETES_VERSION} control plane is not built: run `make lab`"
    return None


def install() -> bool:
    """Build the binary into the cache; say whether there was anything to do.

    Minutes when Go's own build cache is empty, seconds otherwise. Raises RuntimeError without Go, or when
    the build fails.
    """
    return cache.build_once(binary().parent.name, _build)


def lock() -> None:
    """Rewrite kubelab/go.mod and go.sum for the versions above: what a version bump needs.

    Kubernetes pins its own staging modules by `replace`, which Go ignores in a dependency; so each is
    repeated here with the version that belongs to the release.
    """
    kubernetes = f"k8s.io/kubernetes@v{KUBERNETES_VERSION}"
    upstream = json.loads(go(SOURCES, "mod", "download", "-json", kubernetes))["GoMod"]
    module = json.loads(go(SOURCES, "mod", "edit", "-json", upstream))
    staging = "v0." + KUBERNETES_VERSION.removeprefix("1.")
    lines = [
        "module kubelab",
        f"go {module['Go']}",
        f"godebug default=go{module['Go'].rpartition('.')[0]}",
        "require (",
        f"k8s.io/kubernetes v{KUBERNETES_VERSION}",
        f"go.etcd.io/etcd/server/v3 v{ETCD_VERSION}",
        f"sigs.k8s.io/kwok v{KWOK_VERSION}",
        ")",
        "replace (",
        *(f"{path} => {path} {staging}" for path in (each["Old"]["Path"] for each in module["Replace"])),
        ")",
    ]
    (SOURCES / "go.mod").write_text("\n".join(lines) + "\n")
    (SOURCES / "go.sum").unlink(missing_ok=True)
    go(SOURCES, "mod", "tidy")


def _build(directory: Path) -> None:
    go(
        SOURCES,
        *("build", "-trimpath", "-buildvcs=false", "-mod=readonly"),
        *("-ldflags", _linker_flags(), "-o", str(directory / "kubelab"), "."),
    )


def _linker_flags() -> str:
    # Without these stamps the server calls itself v0.0.0, and clients choose by version.
    minor = KUBERNETES_VERSION.split(".")[1]
    stamps = {
        "gitVersion": f"v{KUBERNETES_VERSION}",
        "gitMajor": "1",
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "unknown",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(
        ["-s -w", *(f"-X {package}.{name}={value}" for package in packages for name, value in stamps.items())]
    )
