"""Settings that may stand in files: a mounted Secret is exchanged while we run, so each is read when it is needed."""

from pathlib import Path

from sf_healer.settings import PREFIX, SettingsError


def given(name: str, value: str | None, path: str | None) -> str:
    """Give a setting that may stand in a file instead, as the file is now; "" where neither is set.

    Raises SettingsError for a file that cannot be used.
    """
    if path is None:
        return value or ""
    text = text_of(f"{PREFIX}{name}_FILE", path).rstrip("\r\n")
    if not text:
        raise SettingsError(f"{PREFIX}{name}_FILE", f"{path!r} is empty")
    return text


def text_of(name: str, path: str) -> str:
    """Read a file that the setting of this name gives; raises SettingsError, which quotes nothing of it."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as problem:
        raise SettingsError(name, f"{path!r} cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError:
        raise SettingsError(name, f"{path!r} is no UTF-8 text") from None  # the error would quote it
