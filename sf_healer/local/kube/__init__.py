"""A small part of Kubernetes in one event loop: an API server for Jobs and pods, a Job controller, a kubelet.

Nothing here knows StreamForge or sf-healer. Semantics are those of Kubernetes 1.36; the suite that says so,
tests/cluster/test_local_cluster.py, runs against a real control plane too. sf_healer/local/cluster.py puts
the parts together.
"""
