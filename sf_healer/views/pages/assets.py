"""What pages load beside themselves, from inside this package: a style sheet, a script, an icon."""

import hashlib
from importlib import resources
from typing import Final

import msgspec


class Asset(msgspec.Struct, frozen=True):
    """A file of the package, as it is served."""

    content: bytes
    content_type: str
    path: str  # with a query that changes with the content, so that browsers may keep it


def _asset(name: str, content_type: str) -> Asset:
    content = (resources.files(__package__) / "static" / name).read_bytes()
    return Asset(content, content_type, f"/assets/{name}?v={hashlib.sha256(content).hexdigest()[:12]}")


STYLE: Final = _asset("style.css", "text/css")
SCRIPT: Final = _asset("refresh.js", "text/javascript")
ICON: Final = _asset("icon.svg", "image/svg+xml")

BY_NAME: Final = {"style.css": STYLE, "refresh.js": SCRIPT, "icon.svg": ICON}
