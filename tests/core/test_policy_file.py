"""A policy file that changes while a worker runs: as kubelet, editors and accidents change files."""

import os

import pytest

from sf_healer.adapters import policy_file
from sf_healer.adapters.policy_file import look, read
from sf_healer.core.policy import PolicyError

GOOD = "[defaults]\nsilence_threshold_seconds = 100\n"
OTHER = "[defaults]\nsilence_threshold_seconds = 200\n"
BAD = "[defaults]\nsilence_threshold_seconds = 0\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text(GOOD)
    return file


def threshold(file):
    return file.book.policies()[-1].silence_threshold_seconds


def looked(file, times=2):
    for _ in range(times):
        file = look(file)
    return file


def test_a_file_that_stays_as_it_is_is_no_news(path):
    file = read(path)
    os.utime(path, (1, 1))
    assert looked(file, 3) is file


def test_other_content_counts_when_it_was_seen_twice(path):
    file = read(path)
    path.write_text(OTHER)
    once = look(file)
    assert (threshold(once), once.version) == (100, file.version)
    twice = look(once)
    assert (threshold(twice), twice.refused) == (200, "")
    assert twice.version != file.version
    assert look(twice) is twice


def test_a_file_that_is_being_written_is_not_taken_half(path):
    """Half of a policy may be a policy: here all Jobs would be judged by the defaults."""
    file = read(path)
    for written in range(0, len(OTHER), 5):
        path.write_text(OTHER[:written])
        file = look(file)
        assert (threshold(file), file.refused) == (100, "")
    path.write_text(OTHER)
    assert threshold(looked(file)) == 200


def test_a_mounted_configmap_changes_by_a_link_that_is_swapped(tmp_path):
    """As kubelet's atomic writer does it: policy.toml -> ..data/policy.toml, ..data -> a directory."""
    for name, text in (("..one", GOOD), ("..two", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.toml").write_text(text)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "policy.toml").symlink_to("..data/policy.toml")
    file = looked(read(tmp_path / "policy.toml"))
    assert threshold(file) == 100
    (tmp_path / "..data_tmp").symlink_to("..two")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    (tmp_path / "..one" / "policy.toml").unlink()
    assert threshold(looked(file)) == 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BAD.encode(), "line 2: defaults: silence_threshold_seconds is 0: every Job would be sick"),
        (b"[defaults\n", "line 1: not TOML"),
        (b"\xff\xfe[defaults]", "no UTF-8 text: byte 0 is 0xff"),
        (b"#" * 300_000, "more than 262,144 bytes"),
        (b"#\n" * 100_000, "200,000 characters"),
        (b"x = " + b"[" * 4_000, "nested too deeply"),
    ],
    ids=["wrong", "no TOML", "no text", "very large", "large", "deep"],
)
def test_what_cannot_be_used_changes_nothing_and_says_why(path, content, reason):
    file = read(path)
    path.write_bytes(content)
    refused = looked(file)
    assert reason in refused.refused
    assert (threshold(refused), refused.version) == (100, file.version)
    assert look(refused) is refused, "told once"
    path.write_text(OTHER)
    mended = looked(refused)
    assert (threshold(mended), mended.refused) == (200, "")


def test_a_bad_change_that_is_taken_back_leaves_no_trace(path):
    file = read(path)
    path.write_text(BAD)
    refused = looked(file)
    path.write_text(GOOD)
    mended = looked(refused)
    assert mended.refused == ""
    assert mended.book is file.book


def test_a_file_that_is_not_there_is_missed_and_found_again(path):
    file = read(path)
    path.unlink()
    refused = looked(file)
    assert refused.refused == "cannot be read: No such file or directory"
    assert threshold(looked(refused)) == 100
    path.write_text(OTHER)
    assert threshold(looked(refused)) == 200


def test_a_file_that_never_ends_is_not_read_to_its_end(tmp_path):
    with pytest.raises(PolicyError, match="more than"):
        read(policy_file.Path("/dev/zero"))


def test_at_the_start_a_file_that_cannot_be_used_is_an_error(tmp_path):
    with pytest.raises(PolicyError, match=r"cannot be read: No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text(BAD)
    with pytest.raises(PolicyError, match=r"^line 2: "):
        read(tmp_path / "bad.toml")


def test_line_ends_of_another_system_are_read_as_lines(path):
    path.write_bytes(BAD.replace("\n", "\r\n").encode())
    with pytest.raises(PolicyError, match=r"^line 2: "):
        read(path)
