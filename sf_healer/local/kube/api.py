"""The API server: the paths that clients of Jobs and pods call, over HTTP.

State changes only through the store. Objects are JSON only; patches are merge patches (a strategic one is
taken for a merge, so its lists replace). Anybody may do anything: there are no users, access reviews say yes, or what
they are told to say.
"""

import asyncio
import base64
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from sf_healer.local.kube import discovery, errors, jobs
from sf_healer.local.kube.controller import mark_deleting
from sf_healer.local.kube.errors import ApiError
from sf_healer.local.kube.kubelet import Kubelet
from sf_healer.local.kube.objects import (
    EVENT,
    FOREGROUND_FINALIZER,
    JOB,
    NAMESPACE,
    ORPHAN_FINALIZER,
    POD,
    Kind,
    Object,
    edited,
    finalizers_of,
    is_deleting,
    name_of,
    namespace_of,
    timestamp,
    uid_of,
)
from sf_healer.local.kube.selectors import BadSelector, Selector, selector
from sf_healer.local.kube.store import HistoryExpired, Store

VERSION = "v1.36.3"  # whose behaviour this is
USER = "sf-healer-local"
#: What reviews say may be done; nobody is kept from anything.
EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}

_SUFFIX_CHARACTERS, _SUFFIX_ALPHABET = 5, "bcdfghjklmnpqrstvwxz2456789"
_DEFAULT_WATCH_SECONDS = 1800.0
_INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_LARGEST_BODY_BYTES = 3 * 1024 * 1024  # as the API server takes

_GC_FINALIZERS = {"Foreground": FOREGROUND_FINALIZER, "Orphan": ORPHAN_FINALIZER}

_FAULT_REASONS = {403: "Forbidden", 409: "Conflict", 429: "TooManyRequests", 503: "ServiceUnavailable"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fault(msgspec.Struct):
    """An answer that stands in for the server's own, for the next `times` requests that match."""

    status: int  # 0: do what is asked, then hang up without an answer
    method: str = ""  # any
    path: str = ""  # in the path
    times: int = 1
    retry_after_seconds: int | None = None
    delay_seconds: float = 0.0
    dry_run: bool | None = None  # whether it is to be one; None: either

    def refuse(self) -> None:
        """Raise the answer, unless what is asked for is to be done."""
        if self.status:
            reason = _FAULT_REASONS.get(self.status, "InternalError")
            raise ApiError(self.status, reason, "a fault was asked for", retry_after=self.retry_after_seconds)


class _Question(NamedTuple):
    """What a list or watch asks for."""

    kind: Kind
    namespace: str | None
    selects: Selector


class Api:
    """Handlers of all paths, over one store."""

    def __init__(
        self,
        store: Store,
        kubelet: Kubelet,
        *,
        bookmark_seconds: float,
        rules: Sequence[Mapping[str, Sequence[str]]] = (EVERYTHING,),
    ) -> None:
        self._rules = rules
        self.faults: list[Fault] = []
        self._store = store
        self._kubelet = kubelet
        self._bookmark_seconds = bookmark_seconds
        self._random = random.Random()  # noqa: S311  # names of events

    def application(self) -> web.Application:
        """Give the HTTP application."""
        app = web.Application(middlewares=[self._answer], client_max_size=_LARGEST_BODY_BYTES)
        for kind, base in ((JOB, "/apis/batch/v1"), (POD, "/api/v1"), (EVENT, "/api/v1")):
            collection = f"{base}/namespaces/{{namespace}}/{kind.plural}"
            app.router.add_get(f"{base}/{kind.plural}", self._listed(kind))
            app.router.add_get(collection, self._listed(kind))
            app.router.add_get(f"{collection}/{{name}}", self._read(kind))
        jobs_path, pods_path = (
            "/apis/batch/v1/namespaces/{namespace}/jobs",
            "/api/v1/namespaces/{namespace}/pods",
        )
        app.router.add_post(jobs_path, self._create_job)
        app.router.add_delete(f"{jobs_path}/{{name}}", self._delete_job)
        app.router.add_patch(f"{jobs_path}/{{name}}", self._patch_job)
        app.router.add_get(f"{jobs_path}/{{name}}/status", self._read(JOB))
        app.router.add_delete(f"{pods_path}/{{name}}", self._delete_pod)
        app.router.add_get(f"{pods_path}/{{name}}/log", self._read_log)
        app.router.add_post("/api/v1/namespaces/{namespace}/events", self._create_event)
        app.router.add_get("/api/v1/namespaces", self._listed(NAMESPACE))
        app.router.add_post("/api/v1/namespaces", self._create_namespace)
        app.router.add_get("/api/v1/namespaces/{name}", self._read(NAMESPACE))
        for path in ("/version", "/version/"):
            app.router.add_get(path, self._version)
        for path, told in discovery.documents().items():
            app.router.add_get(path, _telling(told))
        app.router.add_post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self._review_access)
        app.router.add_post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", self._review_rules)
        app.router.add_post("/apis/authentication.k8s.io/v1/selfsubjectreviews", self._review_subject)
        return app

    def create_namespace(self, name: str) -> Object:
        """Make a namespace; raises ApiError when there is one of that name."""
        if self._store.get(NAMESPACE, "", name) is not None:
            raise errors.already_exists(NAMESPACE, name)
        metadata = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": timestamp(time.time())}
        made = {
            "apiVersion": NAMESPACE.api_version,
            "kind": NAMESPACE.name,
            "metadata": metadata,
            "status": {"phase": "Active"},
        }
        return self._store.put(NAMESPACE, made)

    # ---- around every request

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            fault = self._fault(request)
            if fault is not None:
                await asyncio.sleep(fault.delay_seconds)
                fault.refuse()
            response = await handler(request)
            if fault is not None and request.transport is not None:
                request.transport.abort()
        except ApiError as problem:
            headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else None
            return web.json_response(problem.status, status=problem.code, headers=headers)
        except BadSelector as problem:
            told = errors.bad_request(str(problem))
            return web.json_response(told.status, status=told.code)
        except HistoryExpired as problem:
            told = errors.expired(str(problem))
            return web.json_response(told.status, status=told.code)
        except web.HTTPMethodNotAllowed:
            told = ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            return web.json_response(told.status, status=told.code)
        except web.HTTPNotFound:
            told = errors.no_such_path()
            return web.json_response(told.status, status=told.code)
        return response

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self.faults:
            is_dry_run = _is_dry_run(request, {})
            is_meant = fault.method in {"", request.method} and fault.dry_run in {None, is_dry_run}
            if is_meant and fault.path in request.path:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    # ---- reading

    def _read(self, kind: Kind) -> Handler:
        async def read(request: web.Request) -> web.Response:
            return web.json_response(self._found(kind, request))

        return read

    def _found(self, kind: Kind, request: web.Request) -> Object:
        name = request.match_info["name"]
        found = self._store.get(kind, request.match_info.get("namespace", ""), name)
        if found is None:
            raise errors.not_found(kind, name)
        return found

    def _listed(self, kind: Kind) -> Handler:
        async def listed(request: web.Request) -> web.StreamResponse:
            query = request.query
            question = _Question(
                kind,
                request.match_info.get("namespace"),
                selector(kind, labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", "")),
            )
            if query.get("watch") in {"true", "1", "True"}:
                return await self._watch(request, question)
            return web.json_response(self._page(question, query))

        return listed

    def _page(self, question: _Question, query: Mapping[str, str]) -> Object:
        version, after = self._store.version, ("", "")
        if query.get("continue"):
            version, *key = json.loads(base64.b64decode(query["continue"]))
            after = (key[0], key[1])
            self._store.changes_since(question.kind, version)  # raises when that version is forgotten
        items = [
            item
            for item in self._store.all_of(question.kind, question.namespace)
            if question.selects(item) and (namespace_of(item), name_of(item)) > after
        ]
        limit = int(query.get("limit") or 0)
        metadata: Object = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            metadata["remainingItemCount"] = len(items) - limit
            items = items[:limit]
            token = json.dumps([version, namespace_of(items[-1]), name_of(items[-1])])
            metadata["continue"] = base64.b64encode(token.encode()).decode()
        kind = question.kind
        return {
            "kind": f"{kind.name}List",
            "apiVersion": kind.api_version,
            "metadata": metadata,
            "items": items,
        }

    # ---- watching

    async def _watch(self, request: web.Request, question: _Question) -> web.StreamResponse:
        query = request.query
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        wants_state = query.get("sendInitialEvents") == "true"
        version = query.get("resourceVersion", "")
        since = self._store.version
        if wants_state or version in {"", "0"}:
            for item in self._store.all_of(question.kind, question.namespace):
                if question.selects(item):
                    await _tell(response, "ADDED", item)
            if wants_state:
                await _tell(response, "BOOKMARK", _bookmark(question.kind, since, initial=True))
        else:
            since = int(version)
        seconds = float(query.get("timeoutSeconds") or _DEFAULT_WATCH_SECONDS)
        bookmarks = query.get("allowWatchBookmarks") in {"true", "1", "True"}
        try:
            await self._follow(response, question, since, time.monotonic() + seconds, bookmarks=bookmarks)
        except HistoryExpired as problem:
            await _tell(response, "ERROR", errors.expired(str(problem)).status)
        await response.write_eof()
        return response

    async def _follow(
        self, response: web.StreamResponse, question: _Question, since: int, end: float, *, bookmarks: bool
    ) -> None:
        next_bookmark = time.monotonic() + self._bookmark_seconds
        while not self._store.closed:
            waiting = asyncio.ensure_future(self._store.wait_for_change())
            version, changes = self._store.version, self._store.changes_since(question.kind, since)
            for change in changes:
                event = _as_seen(question, change.type, change.object, change.before)
                if event is not None:
                    await _tell(response, event, change.object)
            since = version
            await asyncio.wait({waiting}, timeout=max(0.0, min(end, next_bookmark) - time.monotonic()))
            waiting.cancel()
            if time.monotonic() < min(end, next_bookmark):
                continue
            if bookmarks:
                await _tell(response, "BOOKMARK", _bookmark(question.kind, since))
            if time.monotonic() >= end:
                return
            next_bookmark = time.monotonic() + self._bookmark_seconds

    # ---- Jobs

    async def _create_job(self, request: web.Request) -> web.Response:
        namespace = self._namespace(request)
        body = await _body(request)
        name = self._name(body)
        known = self._store.get(JOB, namespace, name)
        job = jobs.created(
            edited(body, lambda copied: copied["metadata"].update(name=name)),
            namespace=namespace,
            uid=str(uuid.uuid4()),
            now=time.time(),
            manager=request.headers.get("User-Agent", "").partition("/")[0],
        )
        if problems := jobs.problems_of(job):
            raise errors.invalid(JOB, name, problems)
        if body["metadata"].get("resourceVersion"):
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        if known is not None:
            raise errors.already_exists(JOB, name, deleting=is_deleting(known))
        if not _is_dry_run(request, body):
            job = self._store.put(JOB, job)
        return web.json_response(job, status=201)

    async def _delete_job(self, request: web.Request) -> web.Response:
        options = await _delete_options(request)
        job = self._found(JOB, request)
        _check_preconditions(JOB, job, options)
        if _is_dry_run(request, options):
            return web.json_response(job)
        policy = options.get("propagationPolicy")
        finalizers = [name for name in finalizers_of(job) if name not in _GC_FINALIZERS.values()]
        if policy is None:  # batch/v1's own default, kept for old clients, unless a delete is under way
            under_way = [name for name in finalizers_of(job) if name in _GC_FINALIZERS.values()]
            finalizers += under_way or [ORPHAN_FINALIZER]
        elif policy in _GC_FINALIZERS:
            finalizers.append(_GC_FINALIZERS[policy])

        def change(copied: Object) -> None:
            mark_deleting(copied, 0, time.time())
            copied["metadata"]["finalizers"] = finalizers

        if finalizers:
            return web.json_response(self._store.put(JOB, edited(job, change)))
        self._store.remove(JOB, job)
        return web.json_response(_success(JOB, job))

    async def _patch_job(self, request: web.Request) -> web.Response:
        patch = await _body(request)
        job = self._found(JOB, request)
        version = patch.get("metadata", {}).pop("resourceVersion", None)
        if version not in {None, job["metadata"]["resourceVersion"]}:
            raise errors.conflict(
                JOB,
                name_of(job),
                "the object has been modified; please apply your changes to the latest version and try again",
            )
        patched = _merged(job, patch)
        patched["status"] = job["status"]
        if problems := [*jobs.problems_of(patched), *jobs.problems_of_update(job, patched)]:
            raise errors.invalid(JOB, name_of(job), problems)
        if patched["spec"] != job["spec"]:
            patched["metadata"]["generation"] += 1
        if not _is_dry_run(request, patch):
            patched = self._store.put(JOB, patched)
        return web.json_response(patched)

    # ---- pods, events, namespaces

    async def _delete_pod(self, request: web.Request) -> web.Response:
        options = await _delete_options(request)
        pod = self._found(POD, request)
        _check_preconditions(POD, pod, options)
        grace = options.get("gracePeriodSeconds")
        if grace is None:
            grace = pod["spec"]["terminationGracePeriodSeconds"]
        if not _is_dry_run(request, options):
            pod = self._store.put(POD, edited(pod, lambda copied: mark_deleting(copied, int(grace), time.time())))
        return web.json_response(pod)

    async def _read_log(self, request: web.Request) -> web.Response:
        log = self._kubelet.log_of(self._found(POD, request))
        return web.Response(text=log.read_text(errors="replace") if log.exists() else "")

    async def _create_event(self, request: web.Request) -> web.Response:
        namespace = self._namespace(request)
        body = await _body(request)
        name = self._name(body)
        if self._store.get(EVENT, namespace, name) is not None:
            raise errors.already_exists(EVENT, name)
        metadata = {
            **body["metadata"],
            "name": name,
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": timestamp(time.time()),
        }
        event = body | {"apiVersion": EVENT.api_version, "kind": EVENT.name, "metadata": metadata}
        if not _is_dry_run(request, body):
            event = self._store.put(EVENT, event)
        return web.json_response(event, status=201)

    async def _create_namespace(self, request: web.Request) -> web.Response:
        return web.json_response(self.create_namespace(self._name(await _body(request))), status=201)

    def _namespace(self, request: web.Request) -> str:
        namespace: str = request.match_info["namespace"]
        if self._store.get(NAMESPACE, "", namespace) is None:
            raise errors.not_found(NAMESPACE, namespace)
        return namespace

    def _name(self, body: Object) -> str:
        metadata = body.setdefault("metadata", {})
        if metadata.get("name"):
            return str(metadata["name"])
        if metadata.get("generateName"):
            suffix = "".join(self._random.choices(_SUFFIX_ALPHABET, k=_SUFFIX_CHARACTERS))
            return f"{metadata['generateName']}{suffix}"
        raise errors.bad_request("resource name may not be empty")

    # ---- about the server and the caller

    async def _version(self, _: web.Request) -> web.Response:
        major, minor, _patch = VERSION.removeprefix("v").split(".")
        told = {"major": major, "minor": minor, "gitVersion": f"{VERSION}+local", "platform": "local"}
        unknown = ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler")
        return web.json_response(told | dict.fromkeys(unknown, ""))

    async def _review_access(self, request: web.Request) -> web.Response:
        review = await _body(request)
        asked = review.get("spec", {}).get("resourceAttributes", {})
        resource = "/".join(filter(None, (asked.get("resource", ""), asked.get("subresource", ""))))
        wanted = {"apiGroups": asked.get("group", ""), "resources": resource, "verbs": asked.get("verb", "")}
        of_a_role = bool(asked.get("namespace"))  # what a Role gives holds in a namespace, and in no others
        rules = self._rules if of_a_role or EVERYTHING in self._rules else ()
        allowed = any(all({"*", each} & {*rule[of]} for of, each in wanted.items()) for rule in rules)
        return web.json_response(review | {"status": {"allowed": allowed}}, status=201)

    async def _review_rules(self, request: web.Request) -> web.Response:
        status = {"resourceRules": [*self._rules], "nonResourceRules": [], "incomplete": False}
        return web.json_response(await _body(request) | {"status": status}, status=201)

    async def _review_subject(self, request: web.Request) -> web.Response:
        status = {"userInfo": {"username": USER, "groups": ["system:authenticated"]}}
        return web.json_response(await _body(request) | {"status": status}, status=201)


async def _body(request: web.Request) -> Object:
    try:
        body = json.loads(await request.read())
    except ValueError as problem:
        raise errors.bad_request(f"the object provided is unrecognized: {problem}") from problem
    if not isinstance(body, dict):
        raise errors.bad_request("the object provided is no JSON object")
    return body


async def _delete_options(request: web.Request) -> Object:
    """Read the options of a delete: from the body if there is one, else and only then from the query."""
    if await request.read() not in {b"", b"null"}:
        return await _body(request)
    names = ("propagationPolicy", "gracePeriodSeconds")
    return {name: request.query[name] for name in names if name in request.query}


def _is_dry_run(request: web.Request, body: Object) -> bool:
    return "All" in request.query.getall("dryRun", []) or "All" in (body.get("dryRun") or ())


def _check_preconditions(kind: Kind, item: Object, options: Object) -> None:
    wanted = options.get("preconditions") or {}
    if wanted.get("uid") not in {None, uid_of(item)}:
        raise errors.conflict(
            kind,
            name_of(item),
            f"the UID in the precondition ({wanted['uid']}) does not match the UID in record "
            f"({uid_of(item)}). "
            "The object might have been deleted and then recreated",
        )
    version = item["metadata"]["resourceVersion"]
    if wanted.get("resourceVersion") not in {None, version}:
        raise errors.conflict(
            kind,
            name_of(item),
            f"the ResourceVersion in the precondition ({wanted['resourceVersion']}) does not match the "
            f"ResourceVersion in record ({version}). The object might have been modified",
        )


def _success(kind: Kind, item: Object) -> Object:
    details = {"name": name_of(item), "group": kind.group, "kind": kind.plural, "uid": uid_of(item)}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _merged(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _as_seen(question: _Question, type_: str, item: Object, before: Object | None) -> str | None:
    """Say what a change is to a watch that selects: an object can come into its sight or leave it."""
    if question.namespace not in {None, namespace_of(item)}:
        return None
    sees = type_ != "DELETED" and question.selects(item)
    saw = before is not None and question.selects(before)
    if sees:
        return "MODIFIED" if saw else "ADDED"
    return "DELETED" if saw else None


def _bookmark(kind: Kind, version: int, *, initial: bool = False) -> Object:
    metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial:
        metadata["annotations"] = {_INITIAL_EVENTS_END: "true"}
    return {"kind": kind.name, "apiVersion": kind.api_version, "metadata": metadata}


def _telling(told: Object) -> Handler:
    async def tell(_: web.Request) -> web.Response:
        return web.json_response(told)

    return tell


async def _tell(response: web.StreamResponse, type_: str, item: Object) -> None:
    await response.write(json.dumps({"type": type_, "object": item}).encode() + b"\n")
