"""docs/topics.md is the code: every topic, every field of a record that others may read, and examples that are read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import faust
import msgspec
import pytest
from click.testing import CliRunner

from agents import topics as seen_by_agents
from agents.dead_letters import DEAD_LETTER_BYTES, DETAIL_CHARACTERS, dead_letter
from sf_healer import formats
from sf_healer.commands.topics import command
from sf_healer.core import commands
from sf_healer.core.combine import Rejected
from sf_healer.core.commands import ActionRecord, ControlRecord, Outcome
from sf_healer.core.dead_letters import Header
from sf_healer.core.events import decode
from sf_healer.settings import Settings
from sf_healer.topics import platform_specs, specs

PAGE = (Path(__file__).parents[2] / "docs" / "topics.md").read_text()
READ_BY = {
    **dict.fromkeys(ActionRecord.__args__, commands.decode_action),
    **dict.fromkeys(ControlRecord.__args__, commands.decode_control),
    Outcome: commands.decode_outcome,
}


def test_the_page_is_made_from_the_code():
    assert formats.markdown() == PAGE, "run: sf-healer topics --markdown > docs/topics.md"


def test_the_command_prints_it_whatever_the_environment_says():
    done = CliRunner().invoke(command, ["--markdown"], env={"SF_HEALER_PARTITIONS": "many"})
    assert done.output == PAGE


def test_every_topic_is_on_the_page_and_no_other():
    names = {spec.name for spec in (*specs(Settings(), 3), *platform_specs(Settings(), 3))}
    assert set(formats.USES) == names


def test_every_topic_that_an_agent_reads_or_writes_is_on_the_page():
    found = {each.get_topic_name() for each in vars(seen_by_agents).values() if isinstance(each, faust.Topic)}
    assert len(found) > 5, "the walk must find them"
    assert found <= set(formats.USES)


@pytest.mark.parametrize("kind", formats.FIELDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_record_is_explained_and_no_other(kind):
    assert list(formats.FIELDS[kind]) == list(kind.__struct_fields__)


@pytest.mark.parametrize("example", formats.EXAMPLES, ids=lambda example: type(example).__name__)
def test_an_example_is_read_as_it_is_printed(example):
    printed = formats._as_json(example)
    assert printed in PAGE
    written = printed.removeprefix("\n```json\n").removesuffix("\n```\n")
    assert READ_BY[type(example)](written.encode()) == example
    assert msgspec.json.decode(written) == msgspec.json.decode(commands.encode(example))


def test_there_is_an_example_of_every_kind_of_record():
    assert {type(example) for example in formats.EXAMPLES} == set(READ_BY)


def test_the_example_of_a_dead_letter_is_what_is_sent():
    topic, partition, offset, value = formats.EXAMPLE_LETTER
    malformed = decode(value)
    record = SimpleNamespace(offset=offset, value=value)
    letter = dead_letter(None, topic, partition, Rejected(record, malformed.reason, malformed.detail))
    told = [f"key      {letter.key.decode()}", *(f"{name}: {text.decode()}" for name, text in letter.headers.items())]
    assert "\n".join(["```", *told, f"value    {letter.value.decode()}", "```"]) in PAGE


def test_every_header_of_a_dead_letter_is_explained_with_what_is_cut():
    assert list(formats.HEADERS) == list(Header)
    assert f"{DEAD_LETTER_BYTES // 1024} KiB" in PAGE
    assert f"{DETAIL_CHARACTERS} characters" in PAGE
