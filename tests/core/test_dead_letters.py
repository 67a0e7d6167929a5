"""What a dead letter's headers tell, whoever wrote them."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.dead_letters import SHOWN_BYTES, Header, read, shown

TOLD = [
    ("sf-healer-reason", b"not_json"),
    ("sf-healer-detail", b"malformed (byte 1)"),
    ("sf-healer-source-topic", b"queue-events"),
    ("sf-healer-source-partition", b"2"),
    ("sf-healer-source-offset", b"41"),
    ("sf-healer-original-size", b"1"),
]


def test_a_letter_is_read_as_it_was_addressed():
    letter = read(5.0, TOLD, b"{")
    assert (letter.at, letter.reason, letter.detail, letter.value) == (5.0, "not_json", "malformed (byte 1)", "{")
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("queue-events", 2, 41)
    assert letter.original_size == 1


def test_what_is_not_told_is_empty():
    letter = read(5.0, [("sf-healer-source-offset", b"many"), ("sf-healer-reason", None)], None)
    assert (letter.reason, letter.source_topic, letter.source_partition, letter.source_offset) == ("", "", None, None)
    assert letter.value is None


def test_a_value_moves_no_cursor_and_stays_in_its_line():
    assert shown(b"a\x1b[2J\nb", most=99) == "a\\x1b[2J\\nb"
    assert shown("ж".encode() * 300, most=SHOWN_BYTES + 1) == "ж" * (SHOWN_BYTES // 2) + "…"


@given(st.lists(st.tuples(st.sampled_from([*Header, "other"]), st.none() | st.binary())), st.none() | st.binary())
def test_any_record_is_a_letter_a_person_can_read(headers, value):
    letter = read(0.0, headers, value)
    assert msgspec.json.encode(letter)
    for text in (letter.reason, letter.detail, letter.source_topic, letter.value or ""):
        assert text.isprintable() or not text
