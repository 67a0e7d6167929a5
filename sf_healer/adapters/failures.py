"""What the network's libraries say when something fails, in a person's words: no numbers, objects or source files."""

import errno
import os
import re

_ERROR_NUMBER = re.compile(r"\[Errno (-?\d+)\] ?([^\[;,)]*)")
#: "HTTPSConnection(host='k3', port=6443): …", "_Pool(…): …", with or without where the object lies.
_OBJECT = re.compile(r"<?[\w.]*(?:Connection|Pool)\w*\([^)]*\)(?: at 0x[0-9a-f]+>)?:? ")
_TLS = re.compile(r"\[SSL: \w+\] | \(_ssl\.c:\d+\)")
_DIGITS = 9  # more has no error's number, and Python and C read only so many
_CUT_OFF = ("Connection aborted", "RemoteDisconnected", "IncompleteRead", "Server disconnected")


def in_words(told: str) -> str:
    """Put the text of an exception into words; one that needs none stays as it is.

    Of several addresses that were tried ("localhost" is two) each reason is told once.
    """
    reasons = [_reason(number, text.strip().lower()) for number, text in _ERROR_NUMBER.findall(told)]
    if reasons:
        return ", ".join(dict.fromkeys(reasons))
    if any(sign in told for sign in _CUT_OFF):
        return "the connection was closed before an answer came"
    return _TLS.sub("", _OBJECT.sub("", told)).strip()


def numbers_in(told: str) -> set[str]:
    """Give the numbers of the system's errors in a text, one for each address that was tried."""
    return {number for number, _ in _ERROR_NUMBER.findall(told)}


def _reason(number: str, words: str) -> str:
    """Name an error by the system's own word, else by the words beside its number; a resolver's is negative."""
    if number.startswith("-"):
        return f"{words}: is the name of the host right?"
    if len(number) <= _DIGITS and int(number) in errno.errorcode:
        return os.strerror(int(number)).lower()
    return words or "unknown error"
