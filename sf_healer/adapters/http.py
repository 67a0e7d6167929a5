"""HTTP: the only module that imports httpx. Pages of workers and of Prometheus, the lab's tools, a webhook."""

import asyncio
from http import HTTPStatus
from typing import Any

import httpx

from sf_healer import __version__
from sf_healer.adapters.files import given
from sf_healer.adapters.threads import in_thread
from sf_healer.adapters.unreached import why_unreached
from sf_healer.settings import Settings, SettingsError, is_http_url

TIMEOUT_SECONDS = 5.0
#: For all of one attempt; httpx's own limits hold for each read, and a receiver may send a byte at a time.
POST_SECONDS = 10.0

#: For the whole of an answer, in times of what each read of it may take: a page may be long, and a line slow.
_READS = 6

_MAY_PASS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_LONGEST_RETRY_AFTER = 6  # digits
_SHOWN = 200  # characters of an address that is none
#: What Python's own reader raises; the last for what is nested too deep.
_NOT_JSON = (ValueError, RecursionError)


class WorkerUnreachableError(ConnectionError):
    """No worker answered at the address."""


class NobodyListensError(WorkerUnreachableError):
    """There was no connection to the address."""


class WorkerSilentError(WorkerUnreachableError):
    """Something listens at the address, and gave no answer in time."""


class WorkerRefusedError(RuntimeError):
    """Somebody answered, but not with what was asked for; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def get_json(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
    """Read a page as JSON, following redirects: a table key may live on another worker.

    Raises WorkerUnreachableError (NobodyListensError; WorkerSilentError where no answer came), and WorkerRefusedError
    for a status other than 2xx or an answer that is no JSON.
    """
    answer = _asked("GET", url, timeout_seconds=timeout_seconds)
    try:
        return answer.json()
    except _NOT_JSON as problem:
        raise WorkerRefusedError(f"{url} answered no JSON", answer.status_code) from problem


def get_answer(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> tuple[int, Any]:
    """Read a page whatever its status: that, and the JSON; None for an answer that is none.

    Raises NobodyListensError, and WorkerUnreachableError where a connection stood and no answer came.
    """
    try:
        answer = _answer("GET", url, timeout_seconds=timeout_seconds)
    except WorkerRefusedError as problem:
        return problem.status, None
    try:
        return answer.status_code, answer.json()
    except _NOT_JSON:
        return answer.status_code, None


def post_json(url: str, body: object) -> None:
    """Post JSON to a tool of the lab; raises as get_json does."""
    _asked("POST", url, body=body)


def delete(url: str) -> None:
    """Delete what a tool of the lab has at a URL; raises as get_json does."""
    _asked("DELETE", url)


def _asked(method: str, url: str, *, body: object = None, timeout_seconds: float = TIMEOUT_SECONDS) -> httpx.Response:
    answer = _answer(method, url, body=body, timeout_seconds=timeout_seconds)
    if not answer.is_success:
        raise WorkerRefusedError(f"{url} answered {answer.status_code}: {_reason(answer)}", answer.status_code)
    return answer


def is_address(url: str) -> bool:
    """Return whether a text is an address that can be asked, whoever may listen there."""
    try:
        return is_http_url(url) and bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        return False


def _answer(method: str, url: str, *, body: object = None, timeout_seconds: float) -> httpx.Response:
    """Give the answer, redirects followed, within `_READS` times what one read may take.

    Raises WorkerUnreachableError, and WorkerRefusedError for an answer that leads or reads nowhere. To be called in a
    thread that has no event loop.
    """
    try:
        return asyncio.run(_whole_answer(method, url, body=body, timeout_seconds=timeout_seconds))
    except (httpx.InvalidURL, UnicodeError) as problem:
        raise NobodyListensError(f"{url:.{_SHOWN}} is no address ({problem})") from problem
    except httpx.TooManyRedirects as problem:
        raise WorkerRefusedError(f"{url} is redirected in a circle", HTTPStatus.LOOP_DETECTED) from problem
    except TimeoutError as problem:
        raise WorkerSilentError(f"{url} gave no whole answer in {_READS * timeout_seconds:g} s") from problem
    except httpx.ConnectTimeout as problem:
        raise NobodyListensError(f"no connection to {_place(url)} in {timeout_seconds:g} s") from problem
    except httpx.TimeoutException as problem:
        raise WorkerSilentError(f"{url} gave no answer in {timeout_seconds:g} s") from problem
    except httpx.ConnectError as problem:
        raise NobodyListensError(why_unreached(problem, _place(url))) from problem
    except httpx.TransportError as problem:
        raise WorkerUnreachableError(why_unreached(problem, _place(url))) from problem


async def _whole_answer(method: str, url: str, *, body: object, timeout_seconds: float) -> httpx.Response:
    client = httpx.AsyncClient(timeout=timeout_seconds, follow_redirects=True, headers={"Accept": "application/json"})
    async with asyncio.timeout(_READS * timeout_seconds), client, client.stream(method, url, json=body) as answer:
        try:
            await answer.aread()
        except httpx.DecodingError as problem:
            raise WorkerRefusedError(f"{url} answered what cannot be unpacked", answer.status_code) from problem
        return answer


def _place(url: str) -> str:
    """Name the HOST:PORT that a URL leads to."""
    parsed = httpx.URL(url)
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{host}:{parsed.port or (443 if parsed.scheme == 'https' else 80)}"


def get_status(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
    """Give the status of a page; redirects are followed. Raises WorkerUnreachableError."""
    try:
        return _answer("GET", url, timeout_seconds=timeout_seconds).status_code
    except WorkerRefusedError as problem:
        return problem.status


def _reason(answer: httpx.Response) -> str:
    try:
        told = answer.json()
    except _NOT_JSON:
        return answer.reason_phrase
    return str(told.get("error", answer.reason_phrase)) if isinstance(told, dict) else answer.reason_phrase


class NotDeliveredError(RuntimeError):
    """A webhook did not take what was posted; the message never holds its URL, nor what it answered."""

    def __init__(
        self, message: str, result: str, *, may_try_again: bool, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.result = result  # "refused" or "unanswered": a metric label
        self.may_try_again = may_try_again
        self.retry_after_seconds = retry_after_seconds


class Webhook:
    """The webhook of the settings. Its proxy and CAs come from the environment (HTTPS_PROXY, SSL_CERT_FILE)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None

    async def post(self, body: bytes) -> None:
        """Post JSON; returns once it was taken. Redirects are not followed, and no answer's body is read.

        Raises NotDeliveredError.
        """
        url = self._url()
        if self._client is None:
            self._client = await in_thread(_client)  # it reads all CAs, which takes tens of milliseconds
        try:
            async with asyncio.timeout(POST_SECONDS), self._client.stream("POST", url, content=body) as answer:
                status, retry_after = answer.status_code, answer.headers.get("Retry-After", "")
        except TimeoutError as problem:
            raise _unanswered(f"gave no answer within {POST_SECONDS:g} s") from problem
        except httpx.InvalidURL:
            raise _unanswered("has a URL that cannot be used", may_try_again=False) from None  # the error quotes it
        except httpx.HTTPError as problem:
            raise _unanswered(f"was not reached ({type(problem).__name__})") from None
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise NotDeliveredError(
                f"the webhook answered {status}",
                "refused",
                may_try_again=status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _MAY_PASS,
                retry_after_seconds=_seconds(retry_after),
            )

    async def close(self) -> None:
        """Close idle connections."""
        if self._client is not None:
            await self._client.aclose()

    def _url(self) -> str:
        try:
            url = given("NOTIFY_URL", self._settings.notify_url, self._settings.notify_url_file)
        except SettingsError as problem:
            raise _unanswered(f"has no URL ({problem})") from None
        if not is_http_url(url):
            raise _unanswered("has a URL that is not an http:// or https:// one")
        return url


def _client() -> httpx.AsyncClient:
    headers = {"Content-Type": "application/json", "User-Agent": f"sf-healer/{__version__}"}
    return httpx.AsyncClient(timeout=POST_SECONDS, headers=headers, follow_redirects=False)


def _unanswered(message: str, *, may_try_again: bool = True) -> NotDeliveredError:
    return NotDeliveredError(f"the webhook {message}", "unanswered", may_try_again=may_try_again)


def _seconds(retry_after: str) -> float | None:
    """Read Retry-After where it is a number of seconds; a date, or anything else, is as none."""
    plain = retry_after.isascii() and retry_after.isdecimal() and len(retry_after) <= _LONGEST_RETRY_AFTER
    return float(retry_after) if plain else None
