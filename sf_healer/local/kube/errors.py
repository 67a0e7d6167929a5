"""Refusals in the API's own form: an HTTP status and a Status object. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from sf_healer.local.kube.objects import Kind, Object


class Cause(NamedTuple):
    """One thing that is wrong with a manifest."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class ApiError(Exception):
    """A request that the API refuses."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Object | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details or {},
            "code": code,
        }


def not_found(kind: Kind, name: str) -> ApiError:
    """Say that there is no such object."""
    return ApiError(404, "NotFound", f'{kind.qualified} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Kind, name: str, *, deleting: bool = False) -> ApiError:
    """Say that the name is taken, perhaps by one that is on its way out."""
    message = f'{kind.qualified} "{name}" already exists'
    if deleting:
        message = f"object is being deleted: {message}"
    return ApiError(409, "AlreadyExists", message, details=_details(kind, name))


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    """Say that the object is not the one that the request speaks of."""
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}',
        details=_details(kind, name),
    )


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> ApiError:
    """Say what is wrong with a manifest."""
    told = [f"{cause.field}: {cause.message}" for cause in causes]
    listed = told[0] if len(told) == 1 else "[" + ", ".join(told) + "]"
    details = {"name": name, "group": kind.group, "kind": kind.name}
    details["causes"] = [cause._asdict() for cause in causes]  # type: ignore[assignment]  # a JSON object
    return ApiError(422, "Invalid", f'{kind.name}.{kind.group} "{name}" is invalid: {listed}', details=details)


def bad_request(message: str) -> ApiError:
    """Say that a request cannot be read."""
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    """Say that the versions asked for are no longer kept: list again."""
    return ApiError(410, "Expired", message)


def no_such_path() -> ApiError:
    """Say that nobody serves this path."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def _details(kind: Kind, name: str) -> Object:
    return {"name": name, "kind": kind.plural} | ({"group": kind.group} if kind.group else {})
