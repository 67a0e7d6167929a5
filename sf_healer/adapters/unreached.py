"""Why there is no connection, in words: clients put the system's own error beneath theirs, with numbers in it."""

import socket
import ssl
from collections.abc import Iterator
from errno import ECONNREFUSED

from sf_healer.adapters.failures import in_words, numbers_in


def why_unreached(problem: BaseException, where: str) -> str:
    """Say why there is no connection to `where`, HOST:PORT."""
    told = (_reason(cause, where) for cause in _causes(problem))
    return next(filter(None, told), f"{where}: {in_words(str(problem))}")


def is_refused(problem: OSError) -> bool:
    """Return whether nothing listens at any address of a name."""
    if isinstance(problem, ConnectionRefusedError):
        return True
    # What asyncio makes of a name with several addresses, none of which answers, has no number of its own.
    return problem.errno is None and numbers_in(str(problem)) == {str(ECONNREFUSED)}


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


def _reason(problem: BaseException, where: str) -> str:
    host = where.rpartition(":")[0]
    match problem:
        case ssl.SSLCertVerificationError():
            return f"the certificate of {where} is not trusted ({problem.verify_message})"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS with {where} failed ({reason.lower().replace('_', ' ')})"
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return f"the name {host} cannot be looked up now"
        case socket.gaierror():
            return f"no host is called {host}"
        case TimeoutError():
            return f"no answer from {where}"
        case ConnectionResetError():
            return f"{where} closed the connection"
        case OSError() if is_refused(problem):
            return f"nothing listens at {where}"
        case OSError(errno=int(), strerror=str(why)):
            return f"no way to {where} ({why.lower()})"
    return ""
