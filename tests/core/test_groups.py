"""Idle or stuck: which group is a consumer's own, and what two looks at it say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.groups import Group, GroupLook, Idle, candidates, describe, is_idle, own_group

QUEUE = "loader-btcusdt-api-trades-2025-06-01-P4nTkv"
OWN = f"arango-trades-consumer-{QUEUE}"


@pytest.mark.parametrize(
    ("name", "is_candidate"),
    [
        (OWN, True),
        (f"graph-build-consumer-{QUEUE}", True),
        (f"control-listener-{QUEUE}", False),
        (f"consumer-{QUEUE}", False),  # dummy-service's listener for commands
        (f"-consumer-{QUEUE}", False),
        (OWN.lower(), False),  # the short id keeps its case
        (f"{OWN}-old", False),
        ("arango-trades-consumer-loader-ethusdt-api-trades-2025-06-01-aaaaaa", False),
    ],
)
def test_the_groups_of_a_queue_are_those_named_for_its_data(name, is_candidate):
    assert candidates([name], QUEUE) == ((name,) if is_candidate else ())


def test_a_job_without_a_queue_has_no_groups():
    assert candidates(["arango-trades-consumer-"], "") == ()


def test_the_only_group_of_a_queue_is_its_own_wherever_its_members_are():
    group = Group(OWN, hosts=("10.0.0.9",))
    assert own_group([group], "10.0.0.1") == group
    assert own_group([group], "") == group


def test_of_several_groups_the_one_with_a_member_at_the_pods_address_is_its_own():
    own, other = Group("a", hosts=("10.0.0.1",)), Group("b", hosts=("10.0.0.2",))
    assert own_group([own, other], "10.0.0.1") == own
    assert own_group([other, own], "10.0.0.1") == own


@pytest.mark.parametrize(
    ("hosts", "pod_ip", "told"),
    [
        ((("10.0.0.2",), ("10.0.0.3",)), "10.0.0.1", "none has a live member at 10.0.0.1"),
        (((), ()), "10.0.0.1", "none has a live member at 10.0.0.1"),
        ((("10.0.0.1",), ("10.0.0.1",)), "10.0.0.1", "several have a live member at 10.0.0.1"),
        ((("",), ("10.0.0.1",)), "", "none has a live member at an unknown address"),
    ],
)
def test_of_several_groups_none_is_guessed(hosts, pod_ip, told):
    answer = own_group([Group(str(number), hosts=each) for number, each in enumerate(hosts)], pod_ip)
    assert isinstance(answer, str)
    assert told in answer


def test_a_queue_without_a_group_has_none():
    assert own_group([], "10.0.0.1") is None


def a_look(**changes):
    return GroupLook(**{"group": OWN, "members": 1, "committed": 100, "lag": 0, **changes})


LAGS = a_look(lag=7)


@pytest.mark.parametrize(
    ("before", "look", "answer", "told"),
    [
        (None, a_look(), Idle.IDLE, f"its group {OWN} has 1 live member and no lag"),
        (None, a_look(members=2), Idle.IDLE, "2 live members and no lag"),
        (None, a_look(members=0), Idle.BUSY, "no live member"),
        (None, a_look(members=0, lag=7), Idle.BUSY, "no live member"),
        (None, GroupLook(), Idle.BUSY, "its queue has no consumer group"),
        (None, LAGS, Idle.TO_ASK, "7 records of lag"),
        (LAGS, LAGS, Idle.BUSY, "7 records of lag, and committed none between two looks"),
        (LAGS, a_look(lag=99), Idle.BUSY, "99 records of lag"),  # more arrives, nothing is done
        (LAGS, a_look(lag=99, committed=101), Idle.IDLE, "committed 1 between two looks"),
        (LAGS, a_look(committed=107), Idle.IDLE, "no lag"),
        (LAGS, a_look(lag=7, committed=50), Idle.BUSY, "committed -50 between"),  # reset by somebody: no progress
        (LAGS, a_look(members=0, lag=7), Idle.BUSY, "no live member"),
        (a_look(group="other", lag=7), LAGS, Idle.TO_ASK, "7 records of lag"),
        (GroupLook(unknown="away"), LAGS, Idle.TO_ASK, "7 records of lag"),
        (None, GroupLook(unknown="no rights"), Idle.UNKNOWN, "cannot be judged: no rights"),
        (LAGS, GroupLook(unknown="no rights"), Idle.UNKNOWN, "cannot be judged: no rights"),
    ],
)
def test_what_looks_at_a_group_say(before, look, answer, told):
    assert is_idle(before, look) is answer
    assert told in describe(before, look)


LOOKS = st.builds(
    GroupLook,
    group=st.sampled_from(["", "a", "b"]),
    members=st.integers(0, 3),
    committed=st.integers(0, 9),
    lag=st.integers(0, 9),
    unknown=st.sampled_from(["", "no rights"]),
)


@given(st.none() | LOOKS, LOOKS)
def test_only_a_live_member_that_has_no_lag_or_moves_is_idle(before, look):
    answer = is_idle(before, look)
    if answer is Idle.IDLE:
        assert look.members
        assert not look.unknown
        assert not look.lag or (before is not None and look.committed > before.committed)
    assert (answer is Idle.UNKNOWN) == bool(look.unknown)


@given(LOOKS, LOOKS)
def test_a_second_look_at_the_same_group_always_decides(before, look):
    if before.group == look.group and not before.unknown:
        assert is_idle(before, look) is not Idle.TO_ASK


@given(st.lists(st.builds(Group, name=st.text(max_size=3), hosts=st.lists(st.text(max_size=3)).map(tuple))), st.text())
def test_a_chosen_group_is_one_of_those_there_are(groups, pod_ip):
    answer = own_group(groups, pod_ip)
    assert answer is None or isinstance(answer, str) or answer in groups
