"""Do the versions fit: of Python, and of the libraries whose inside our transport uses."""

import platform
from collections.abc import Iterator
from importlib import metadata

from sf_healer import __version__
from sf_healer.checks.findings import About, Finding, State

_PACKAGE = "sf-healer"


def check() -> Iterator[Finding]:
    """Compare what is installed with what this version of ours was made for."""
    yield Finding(About.VERSIONS, State.OK, f"sf-healer {__version__}, Python {platform.python_version()}")
    for name, wanted in _pinned():
        found = metadata.version(name)
        if found == wanted:
            yield Finding(About.VERSIONS, State.OK, f"{name} {found}")
        else:
            what = f"{name} is {found}, and our transport overrides the inside of {wanted}"
            yield Finding(About.VERSIONS, State.WRONG, what, f"pip install {name}=={wanted}")


def _pinned() -> Iterator[tuple[str, str]]:
    """Give the requirements that name one version."""
    for requirement in metadata.requires(_PACKAGE) or ():
        named, pinned, version = requirement.partition("==")
        if pinned and ";" not in requirement:
            yield named.partition("[")[0].strip(), version.strip()
