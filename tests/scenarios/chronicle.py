"""What the API server itself says has happened to Jobs and their pods, from a moment on: every event, by a watch.

The judge of a story. It asks the API server directly, whatever stands between it and the workers, and knows nothing
of sf-healer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec

if TYPE_CHECKING:
    from pathlib import Path

Manifest = dict[str, Any]

_RETRY_SECONDS = 0.2
_LONGEST_LINE_BYTES = 8 * 1024 * 1024
_RESOURCES = {"jobs": "/apis/batch/v1/namespaces/{}/jobs", "pods": "/api/v1/namespaces/{}/pods"}


class Life(msgspec.Struct):
    """One incarnation of a Job."""

    uid: str
    manifest: Manifest  # as it was created
    ended: bool = False


class History:
    """The incarnations of each Job of a namespace, in order, and the pods that run now; folded from events."""

    def __init__(self) -> None:
        self.lives: dict[str, list[Life]] = {}
        self.running: dict[str, set[str]] = {}  # uid of the Job: uids of its pods that run; of every Job that had one
        #: Jobs of which pods of two incarnations were there at once.
        self.side_by_side: list[str] = []
        self._pods: dict[str, tuple[str, str]] = {}  # uid of the pod: name and uid of its Job

    def current(self, name: str) -> Life | None:
        """Give the incarnation that exists now, if one does."""
        lives = self.lives.get(name, [])
        return lives[-1] if lives and not lives[-1].ended else None

    def take(self, resource: str, type_: str, found: Manifest) -> None:
        """Fold one event of a watch of `jobs` or `pods`, in the order of that watch."""
        if type_ == "BOOKMARK":
            return
        if resource == "pods":
            self._take_pod(type_, found)
            return
        lives = self.lives.setdefault(found["metadata"]["name"], [])
        if type_ == "ADDED":
            lives.append(Life(found["metadata"]["uid"], found))
        elif type_ == "DELETED":
            assert lives[-1].uid == found["metadata"]["uid"]
            lives[-1].ended = True

    def _take_pod(self, type_: str, pod: Manifest) -> None:
        metadata = pod["metadata"]
        owner = next((each for each in metadata.get("ownerReferences", ()) if each.get("controller")), None)
        if owner is None:
            return
        if type_ == "DELETED":
            self._pods.pop(metadata["uid"], None)
            self.running.get(owner["uid"], set()).discard(metadata["uid"])
            return
        self._pods[metadata["uid"]] = (owner["name"], owner["uid"])
        if len({job for name, job in self._pods.values() if name == owner["name"]}) > 1:
            self.side_by_side.append(owner["name"])
        runs = pod["status"].get("phase") == "Running" and "deletionTimestamp" not in metadata
        pods = self.running.setdefault(owner["uid"], set())
        if runs:
            pods.add(metadata["uid"])
        else:
            pods.discard(metadata["uid"])


class Chronicle(History):
    """A history written while it happens."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        super().__init__()
        content = json.loads(kubeconfig.read_text())
        cluster = content["clusters"][0]["cluster"]
        self._server = cluster["server"]
        self._trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._headers = {"Authorization": f"Bearer {content['users'][0]['user']['token']}"}
        self._namespace = namespace
        self._tasks: list[asyncio.Task[None]] = []

    async def listed(self) -> dict[str, Manifest]:
        """Ask for the Jobs that exist at this moment, by name."""
        content = await self._list("jobs")
        return {each["metadata"]["name"]: each for each in content["items"]}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._server,
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=self._trust),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=_LONGEST_LINE_BYTES,
        )
        for resource in _RESOURCES:
            version = await self._begin(resource)
            self._tasks.append(asyncio.create_task(self._follow(resource, version)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            assert not task.done(), task.exception()  # a watch that ended early has missed something
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _list(self, resource: str) -> Manifest:
        async with self._session.get(_RESOURCES[resource].format(self._namespace)) as answer:
            answer.raise_for_status()
            content: Manifest = await answer.json()
            return content

    async def _begin(self, resource: str) -> str:
        content = await self._list(resource)
        for each in content["items"]:
            self.take(resource, "ADDED", each)
        return str(content["metadata"]["resourceVersion"])

    async def _follow(self, resource: str, version: str) -> None:
        """Watch for ever; a connection that breaks is made again from where it broke, and nothing may be missed."""
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                asked = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
                path = _RESOURCES[resource].format(self._namespace)
                async with self._session.get(path, params=asked) as answer:
                    async for line in answer.content:
                        event = json.loads(line)
                        assert event["type"] != "ERROR", event
                        version = event["object"]["metadata"]["resourceVersion"]
                        self.take(resource, event["type"], event["object"])
            await asyncio.sleep(_RETRY_SECONDS)


def differences(before: Manifest, after: Manifest, path: str = "") -> list[str]:
    """Say in which fields two incarnations of one Job differ, but for what a new incarnation must have of its own."""
    if not path:
        before, after = _comparable(before), _comparable(after)
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [
            found
            for key in keys
            for found in (
                differences(before[key], after[key], f"{path}.{key}")
                if key in before and key in after
                else [f"{path}.{key} is only in the {'first' if key in before else 'second'}"]
            )
        ]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]


#: Each of these is of one incarnation alone; everything else must come again, whatever sf-healer thinks of it.
_OWN = ("uid", "resourceVersion", "creationTimestamp", "managedFields")
_MARK = "sf-healer.io/"


def _comparable(manifest: Manifest) -> Manifest:
    uid = manifest["metadata"]["uid"]
    # The uid stands in the selector and in labels as well, put there by the API server.
    copy: Manifest = json.loads(json.dumps(manifest).replace(uid, "UID"))
    for field in ("status", "apiVersion", "kind"):  # of the latter two a list tells once
        copy.pop(field, None)
    metadata = copy["metadata"]
    for field in _OWN:
        metadata.pop(field, None)
    annotations = {name: text for name, text in metadata.pop("annotations", {}).items() if not name.startswith(_MARK)}
    return copy | {"metadata": metadata | {"annotations": annotations}}


def marks(manifest: Manifest) -> dict[str, str]:
    """Give the annotations by which sf-healer says why a Job is there."""
    annotations = manifest["metadata"].get("annotations", {})
    return {name.removeprefix(_MARK): text for name, text in annotations.items() if name.startswith(_MARK)}
