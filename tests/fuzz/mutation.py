"""Hostile messages without end: mutations of a corpus, the same for the same seed. A few microseconds each.

Bytes are flipped, cut, doubled and spliced; fields of JSON objects are dropped, doubled, renamed, and get values that
somebody could choose to do harm with. A part is left as it is, for hostile messages arrive among good ones.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fuzz.corpus import Corpus

#: More digits than Python reads (sys.get_int_max_str_digits), and fewer.
_HUGE_INTEGERS = (b"9" * 5000, b"9" * 400, b"18446744073709551616", b"9223372036854775808", b"-9223372036854775809")
_LENGTHS = (1, 52, 63, 64, 65, 253, 254, 511, 512, 513, 3000)
_LONGEST_NESTING = 20_000  # Python 3.12 and later read JSON some 10,000 deep
_TEXTS = (
    "",
    "loading",
    "error",
    "finished",
    "interrupted",
    "pong",
    "LOADING",
    "exploded",
    "../../../../etc/passwd",
    "..",
    ".",
    "/",
    "stf/../kube-system/coredns",
    "a/b/c",
    "%2e%2e%2f%00",
    '{job="x",namespace="y"} 1\n# HELP sf_healer_jobs',
    "x\ny\r\tz",
    "\x00",
    "<script>alert(1)</script>",
    "'; DROP TABLE jobs; --",
    "${jndi:ldap://x}",
    "$(reboot)",
    "\u202egnp.exe",
    "\u0130STANBUL",  # grows by one when lowered
    "\u00df\u1e9e\ufb01",
    "e\u0301\u0301\u0301",
    "\U0001f525" * 16,
    "\u65e5\u672c" * 32,
    "__",
    "____",
    "loader__",
    "__P4nTkv",
    "-",
    "-a-",
    "*",
    "None",
    "nan",
)
_VALUES = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"-0",
    b"0.1e1",
    b"01",
    b"+1",
    b".5",
    b"0x1f",
    b"1_000",
    b"null",
    b"true",
    b"false",
    b"True",
    b"None",
    b"undefined",
    b"[]",
    b"{}",
    b"[[]]",
    b'{"": null}',
    b'["loading"]',
    b'{"is": "loading"}',
    b"'loading'",
    b"b'loading'",
    b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"\\u0000"',
    b'"\\x41"',
    b'"\xff\xfe"',
    b'"\xc0\x80"',  # an overlong NUL
    b'"\xed\xa0\x80"',  # half a surrogate pair, as CESU-8 has it
    b'"',
    b"",
    *_HUGE_INTEGERS,
)
_NAMES = (
    b'"status"',
    b'"event"',
    b'"producer"',
    b'"producer_id"',
    b'"telemetry_id"',
    b'"queue_id"',
    b'"finished"',
    b'"records_written"',
    b'"error_message"',
    b'"message"',
    b'"payload"',
    b'"Status"',
    b'"status "',
    b'"st\\u0061tus"',
    b'""',
    b"status",
    b"'status'",
)
_BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b",",
    b":",
    b"\n",
    b"\\u",
    b"\xf0\x9f",
)


class Mutator:
    """Gives one hostile message after the other."""

    def __init__(self, corpus: Corpus, seed: str) -> None:
        self._random = random.Random(seed)
        self._messages = corpus.messages
        self._objects = corpus.objects
        #: The kinds of message and how often each comes, of a hundred.
        self._kinds: list[Callable[[], bytes | None]] = [
            kind
            for kind, share in (
                (self._as_it_is, 25),
                (self._broken_bytes, 30),
                (self._broken_object, 40),
                (self._python_repr, 2),
                (self._any_bytes, 2),
                (self._nested, 1),
            )
            for _ in range(share)
        ]

    def message(self) -> bytes | None:
        """Give a message; None is a tombstone."""
        return self._choice(self._kinds)()

    def timestamp(self, now_ms: int) -> int:
        """Give a record's timestamp, most often true."""
        roll = self._random.random()
        if roll < 0.9:
            return now_ms
        if roll < 0.98:
            return now_ms + int(self._random.uniform(-1e8, 1e8))
        return self._choice((-1, 0, 1, -(2**63), 2**63 - 1, 253_402_300_800_000))

    def text(self) -> bytes:
        """Give a key, a header's name or its value."""
        roll = self._random.random()
        if roll < 0.5:
            return self._choice(_TEXTS).encode()
        if roll < 0.8:
            return b"x" * self._choice(_LENGTHS)
        return self._random.randbytes(self._random.randrange(16))

    def _choice(self, options: Sequence[object]) -> object:
        return options[int(self._random.random() * len(options))]  # a third of the time of random.choice

    # ---- the kinds

    def _as_it_is(self) -> bytes:
        return self._choice(self._messages)

    def _broken_bytes(self) -> bytes:
        message = bytearray(self._choice(self._messages))
        while True:
            self._break(message)
            if self._random.random() < 0.5:
                return bytes(message)

    def _break(self, message: bytearray) -> None:
        rng = self._random.random
        at, roll = int(rng() * (len(message) + 1)), rng()
        until = at + int(rng() * rng() * 64)
        if roll < 0.3 and at < len(message):
            message[at] ^= 1 << int(rng() * 8)
        elif roll < 0.5:
            message[at:at] = self._choice(_BYTES)
        elif roll < 0.65:
            del message[at:until]
        elif roll < 0.75:
            message[at:at] = message[at:until]
        elif roll < 0.85:
            del message[at:]
        elif roll < 0.95:
            other = self._choice(self._messages)
            message[at:] = other[int(rng() * len(other)) :]
        else:
            message[at:until] = self._random.randbytes(until - at)

    def _broken_object(self) -> bytes:
        fields = list(self._choice(self._objects))
        while True:
            self._break_object(fields)
            if self._random.random() < 0.6:
                separator = b", " if self._random.random() < 0.95 else self._choice((b",,", b" ", b",\n", b";"))
                return b"{" + separator.join([name + b": " + value for name, value in fields]) + b"}"

    def _break_object(self, fields: list[tuple[bytes, bytes]]) -> None:
        rng = self._random.random
        roll = rng()
        at = int(rng() * len(fields)) if fields else 0
        if roll < 0.6 and fields:
            fields[at] = (fields[at][0], self._value())
        elif roll < 0.7:
            fields.insert(at, (self._choice(_NAMES), self._value()))
        elif roll < 0.8 and fields:
            del fields[at]
        elif roll < 0.9 and fields:
            fields[at] = (self._choice(_NAMES), fields[at][1])
        else:
            fields += self._choice(self._objects)

    def _value(self) -> bytes:
        roll = self._random.random()
        if roll < 0.45:
            return self._choice(_VALUES)
        if roll < 0.8:
            return _quoted(self._choice(_TEXTS))
        if roll < 0.97:
            return _quoted(self._choice(("x", "X", "-", "\u00e9", "/")) * self._choice(_LENGTHS))
        return self._nested()

    def _python_repr(self) -> bytes:
        fields = self._choice(self._objects)
        return repr({name.decode(): value.decode() for name, value in fields}).encode()

    def _any_bytes(self) -> bytes | None:
        if self._random.random() < 0.2:
            return self._choice((None, b""))
        return self._random.randbytes(int(self._random.random() * 64))

    def _nested(self) -> bytes:
        """Nest a value about as deep as Python goes, or deeper."""
        depth = self._choice((10, 500, 900, 950, 990, 1000, _LONGEST_NESTING, int(self._random.random() * 1100)))
        opening, closing = self._choice(((b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")))
        return opening * depth + b"1" + closing * depth


def _quoted(text: str) -> bytes:
    """Write a text as a JSON string, other characters than ASCII as they are."""
    escaped = "".join(f"\\u{ord(char):04x}" if char < " " or char in '"\\' else char for char in text)
    return f'"{escaped}"'.encode()
