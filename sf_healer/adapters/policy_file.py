"""The policy file: read when a worker starts, and looked at again while it runs.

A ConfigMap that is mounted changes by a swapped symlink, an editor may write a file bit by bit, and some file
systems tell of neither: so the content is compared. It counts when two looks in a row found the same, and is
checked as at the start; what cannot be used changes nothing. Which parts of a worker follow: agents/policies.py.
"""

import hashlib
from pathlib import Path

import msgspec

from sf_healer.core import policy
from sf_healer.core.policy import PolicyBook, PolicyError
from sf_healer.settings import Settings

#: For StreamForge; what holds where no file is set.
SHIPPED_POLICY = Path(policy.__file__).parent.parent / "policy.toml"
#: The longest text if every character took four bytes; a file that never ends is not read to its end.
_MOST_BYTES = 4 * policy.LONGEST_TEXT
_VERSION_DIGITS = 12


class PolicyFile(msgspec.Struct, frozen=True):
    """The policies of a file that hold, and how the file was when it was last looked at."""

    path: Path
    book: PolicyBook
    content: bytes  # that the policies are of
    version: str  # names the content
    refused: str = ""  # why what is in the file now does not hold; "": it does
    seen: bytes | PolicyError = b""  # what the last look found
    judged: bytes | None = None  # the content that is refused


def path_of(settings: Settings) -> Path:
    """Name the file of the settings, the shipped one without."""
    return Path(settings.policy_file or SHIPPED_POLICY)


def read(path: Path) -> PolicyFile:
    """Read a policy file; raises PolicyError for one that cannot be used."""
    content = _content(path)
    if isinstance(content, PolicyError):
        raise content
    return PolicyFile(path, _parse(content), content, _version(content), seen=content)


def look(known: PolicyFile) -> PolicyFile:
    """Look whether the file has changed since; never raises. Returns the same object where nothing is new."""
    found = _content(known.path)
    if not _is_same(found, known.seen):
        return msgspec.structs.replace(known, seen=found)  # it may be half written: wait for the next look
    if isinstance(found, PolicyError):
        return _refuse(known, str(found), None)
    if found == known.content:
        return msgspec.structs.replace(known, refused="", judged=None) if known.refused else known
    if found == known.judged:
        return known
    try:
        book = _parse(found)
    except PolicyError as error:
        return _refuse(known, str(error), found)
    return PolicyFile(known.path, book, found, _version(found), seen=found)


def unreadable(known: PolicyFile, reason: str) -> PolicyFile:
    """Note that a look was not answered."""
    return _refuse(known, reason, None)


def _refuse(known: PolicyFile, reason: str, content: bytes | None) -> PolicyFile:
    if known.refused == reason and known.judged == content:
        return known
    return msgspec.structs.replace(known, refused=reason, judged=content)


def _is_same(found: bytes | PolicyError, before: bytes | PolicyError) -> bool:
    return found == before or (isinstance(found, PolicyError) and str(found) == str(before))


def _content(path: Path) -> bytes | PolicyError:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        return PolicyError(f"cannot be read: {error.strerror}")
    if len(content) > _MOST_BYTES:
        return PolicyError(f"more than {_MOST_BYTES:,} bytes: no policy")
    return content


def _parse(content: bytes) -> PolicyBook:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"no UTF-8 text: byte {error.start} is {content[error.start]:#04x}") from None
    return policy.parse(text.replace("\r\n", "\n"))


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_VERSION_DIGITS]
