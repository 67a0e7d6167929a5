"""Kubernetes as the lab runs it: a real control plane on loopback, kwok in the kubelet's place.

`python -m tests.lab.kube --help` for people; tests use the fixture `control_plane` or ControlPlane. What a
Pod does is chosen by its annotations: see kubelab/kwok-stages.yaml.
"""

from tests.lab.kube.control_plane import Answer, ControlPlane
from tests.lab.kube.installation import KUBERNETES_VERSION, install, missing

__all__ = ["KUBERNETES_VERSION", "Answer", "ControlPlane", "install", "missing"]
