"""What the network's libraries say when something fails, in a person's words: no numbers, objects or source files."""

import os
import re

_ERROR_NUMBER = re.compile(r"\[Errno (-?\d+)\] ?([^\[;,)]*)")
#: "HTTPSConnection(host='k3', port=6443): …", "_Pool(…): …", with or without where the object lies.
_OBJECT = re.compile(r"<?[\w.]*(?:Connection|Pool)\w*\([^)]*\)(?: at 0x[0-9a-f]+>)?:? ")
_TLS = re.compile(r"\[SSL: \w+\] | \(_ssl\.c:\d+\)")
_CUT_OFF = ("Connection aborted", "RemoteDisconnected", "IncompleteRead", "Server disconnected")


def in_words(told: str) -> str:
    """Put the text of an exception into words; one that needs none stays as it is.

    Of several addresses that were tried ("localhost" is two) each reason is told once.
    """
    reasons = [_reason(int(number), text) for number, text in _ERROR_NUMBER.findall(told)]
    if reasons:
        return ", ".join(dict.fromkeys(reasons))
    if any(sign in told for sign in _CUT_OFF):
        return "the connection was closed before an answer came"
    return _TLS.sub("", _OBJECT.sub("", told)).strip()


def _reason(number: int, text: str) -> str:
    """Name an error by the system's own word; a resolver's have negative numbers, and words of their own."""
    if number < 0:
        return f"{text.strip().lower()}: is the name of the host right?"
    return os.strerror(number).lower()
