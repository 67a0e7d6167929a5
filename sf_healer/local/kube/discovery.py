"""What the server says of itself before anything is asked of it: kubectl looks here for which kinds there are. Pure."""

from sf_healer.local.kube.objects import EVENT, JOB, NAMESPACE, POD, Kind, Object

#: What may be done with each kind here, and what else it is called.
_VERBS = {
    JOB: ("create", "delete", "get", "list", "patch", "watch"),
    POD: ("delete", "get", "list", "watch"),
    EVENT: ("create", "get", "list", "watch"),
    NAMESPACE: ("create", "get", "list", "watch"),
}
_SHORT_NAMES = {POD: ["po"], EVENT: ["ev"], NAMESPACE: ["ns"]}


def documents() -> dict[str, Object]:
    """Give the documents of discovery by their paths: the core version, the named group, and the kinds of each."""
    version = {"groupVersion": JOB.api_version, "version": "v1"}
    group = {"name": JOB.group, "versions": [version], "preferredVersion": version}
    return {
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        "/apis/batch": {"kind": "APIGroup", "apiVersion": "v1", **group},
        "/api/v1": _resources(POD, EVENT, NAMESPACE),
        "/apis/batch/v1": _resources(JOB),
    }


def _resources(*kinds: Kind) -> Object:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": [_resource(kind) for kind in kinds],
    }


def _resource(kind: Kind) -> Object:
    return {
        "name": kind.plural,
        "singularName": kind.name.lower(),
        "namespaced": kind is not NAMESPACE,
        "kind": kind.name,
        "verbs": list(_VERBS[kind]),
        "shortNames": _SHORT_NAMES.get(kind, []),
    }
