"""HTTP: the only module that imports httpx. Reads the JSON pages of a worker for the commands of people."""

from typing import Any

import httpx

TIMEOUT_SECONDS = 5.0


class WorkerUnreachableError(ConnectionError):
    """No worker answered at the address."""


class WorkerRefusedError(RuntimeError):
    """A worker answered, but not with what was asked for; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def get_json(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
    """Read a page as JSON, following redirects: a table key may live on another worker.

    Raises WorkerUnreachableError, and WorkerRefusedError for a status other than 2xx or an answer that is
    no JSON.
    """
    try:
        answer = httpx.get(url, timeout=timeout_seconds, follow_redirects=True, headers={"Accept": "application/json"})
    except httpx.TimeoutException as problem:
        raise WorkerUnreachableError(f"{url} gave no answer in {timeout_seconds:g} s") from problem
    except httpx.TransportError as problem:
        raise WorkerUnreachableError(f"{url}: {problem}") from problem
    if not answer.is_success:
        raise WorkerRefusedError(f"{url} answered {answer.status_code}: {_reason(answer)}", answer.status_code)
    try:
        return answer.json()
    except ValueError as problem:
        raise WorkerRefusedError(f"{url} answered no JSON", answer.status_code) from problem


def _reason(answer: httpx.Response) -> str:
    try:
        told = answer.json()
    except ValueError:
        return answer.reason_phrase
    return str(told.get("error", answer.reason_phrase)) if isinstance(told, dict) else answer.reason_phrase
