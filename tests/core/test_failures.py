"""What libraries say of the network, in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.adapters.failures import in_words


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("[Errno 111] Connection refused", "connection refused"),
        (
            "Several: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call failed ('a', 1)",
            "connection refused",
        ),
        (
            "_SecureConnection(host='k3', port=6443): Failed to establish: [Errno 113] No route to host",
            "no route to host",
        ),
        (
            "<urllib3.connection.HTTPSConnection object at 0x7f0>: unresolved ([Errno -2] Name or service not known)",
            "name or service not known: is the name of the host right?",
        ),
        ("_Pool(host='127.0.0.1', port=1): Read timed out. (read timeout=0.3)", "Read timed out. (read timeout=0.3)"),
        (
            "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
            "the connection was closed before an answer came",
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)",
            "certificate verify failed: self-signed certificate",
        ),
        ("[Errno 0] Error", "error"),
        ("[Errno 0]", "unknown error"),
        ("[Errno 104] ", "connection reset by peer"),
        ("[Errno 9999] Something else", "something else"),
        ("[Errno 12345678901234567890] Whatever", "whatever"),
        ("[Errno 12345678901234567890]", "unknown error"),
        pytest.param(f"[Errno {'9' * 5000}] Whatever", "whatever", id="longer than Python reads"),
        ("it is maintained just now", "it is maintained just now"),
    ],
)
def test_neither_numbers_nor_objects_are_told(told, words):
    assert in_words(told) == words


@given(st.text() | st.from_regex(r"\[Errno -?\d+\] ?.*"))
def test_any_text_can_be_told(told):
    assert isinstance(in_words(told), str)
