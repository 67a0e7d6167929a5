"""Idle or stuck: which group is a consumer's own, and what two looks at it say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core import policy
from sf_healer.core.facts import PodState
from sf_healer.core.groups import (
    MOST_NEIGHBOURS,
    Elsewhere,
    Group,
    GroupLook,
    Idle,
    Neighbours,
    address_of,
    candidates,
    describe,
    is_idle,
    neighbours_of,
    own_group,
)
from tests.core.strategies import POLICY, a_fact

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


@pytest.mark.parametrize(
    ("client_host", "address"),
    [
        ("/10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("/fd00:0:0:0:0:0:0:1f", "fd00::1f"),
        ("/fe80:0:0:0:0:0:0:1%eth0", "fe80::1"),
        ("/a.pod.cluster.local", "a.pod.cluster.local"),
        ("", ""),
    ],
)
def test_a_members_address_is_written_as_a_pods_is(client_host, address):
    assert address_of(client_host) == address


HERE, THERE, NOWHERE_WE_KNOW = "10.0.0.1", "10.0.0.2", "10.9.9.9"
ALONE = Neighbours()
#: A loader of the queue, whose address nobody has a group at, is no reason for doubt; another consumer is.
LOADER = Neighbours(addresses=("10.0.0.8",))
SIBLING = Neighbours(consumers=1, addresses=(THERE, "10.0.0.8"))
NOT_LISTED = None


def chosen(*hosts, pod_ip=HERE, neighbours=SIBLING):
    """Choose among groups `a`, `b` and so on, whose live members are at these addresses."""
    return own_group([Group("abc"[number], hosts=each) for number, each in enumerate(hosts)], pod_ip, neighbours)


@pytest.mark.parametrize("neighbours", [ALONE, LOADER, SIBLING, NOT_LISTED])
@pytest.mark.parametrize("others", [[], [(THERE,)], [()], [(THERE, NOWHERE_WE_KNOW)]])
def test_the_group_with_a_member_at_the_pods_address_is_its_own(neighbours, others):
    assert chosen((HERE,), *others, neighbours=neighbours) == Group("a", hosts=(HERE,))
    assert chosen(*others, (THERE, HERE), neighbours=neighbours).hosts == (THERE, HERE)


def test_a_siblings_group_is_not_its_own_and_no_excuse():
    """It hangs before it has joined a group of its own, or has left it: the only group is that of another Job."""
    answer = chosen((THERE,))
    assert isinstance(answer, Elsewhere)
    assert "all live members of a are at addresses of other Jobs of the queue" in answer.why


@pytest.mark.parametrize("hosts", [[(THERE,), ()], [(), (THERE,)], [(THERE,), (THERE,)], [(THERE, "10.0.0.8")]])
def test_who_is_a_member_of_none_of_the_groups_is_told_by_leaving_the_others_out(hosts):
    assert isinstance(chosen(*hosts), Elsewhere)


@pytest.mark.parametrize("neighbours", [ALONE, LOADER, SIBLING, NOT_LISTED])
def test_where_no_group_has_a_live_member_nobody_works(neighbours):
    assert chosen((), neighbours=neighbours) == Group("a")
    answer = chosen((), (), neighbours=neighbours)
    assert isinstance(answer, Elsewhere)
    assert answer.why == "none of a, b has a live member"


@pytest.mark.parametrize("neighbours", [ALONE, LOADER])
@pytest.mark.parametrize("host", [NOWHERE_WE_KNOW, "ip-10-9-9-9.ec2.internal", ""])
@pytest.mark.parametrize("pod_ip", [HERE, ""])
def test_the_only_group_of_the_only_consumer_is_its_own_wherever_its_members_seem_to_be(neighbours, host, pod_ip):
    """A broker may be told other addresses than the pods': one that is behind a NAT, or resolves names."""
    assert chosen((host,), pod_ip=pod_ip, neighbours=neighbours) == Group("a", hosts=(host,))


def test_without_a_cluster_the_only_group_is_its_own():
    """Nobody knows of addresses or of other Jobs then, and nothing can be touched."""
    assert chosen((THERE,), pod_ip="", neighbours=NOT_LISTED) == Group("a", hosts=(THERE,))


@pytest.mark.parametrize(
    ("hosts", "pod_ip", "neighbours", "told"),
    [
        ([(NOWHERE_WE_KNOW,)], HERE, SIBLING, "a has live members of which nobody knows whose they are"),
        ([("a.pod.cluster.local",)], HERE, SIBLING, "a has live members of which nobody knows whose they are"),
        ([(THERE, NOWHERE_WE_KNOW)], HERE, SIBLING, "a has live members of which nobody knows whose they are"),
        ([(THERE,), (NOWHERE_WE_KNOW,)], HERE, SIBLING, "b has live members of which nobody knows whose they are"),
        ([(NOWHERE_WE_KNOW,), ()], HERE, ALONE, "a has live members of which nobody knows whose they are"),
        ([(THERE,)], HERE, NOT_LISTED, "a has live members of which nobody knows whose they are"),
        ([(THERE,)], "", SIBLING, "the address of its own pod is not known"),
        ([(HERE,), (HERE,)], HERE, ALONE, "a, b have a live member at 10.0.0.1"),
        ([(THERE,)], THERE, SIBLING, "other Jobs of the queue have the address 10.0.0.2 too"),
    ],
)
def test_which_group_is_its_own_is_never_guessed(hosts, pod_ip, neighbours, told):
    answer = chosen(*hosts, pod_ip=pod_ip, neighbours=neighbours)
    assert isinstance(answer, str)
    assert told in answer


def test_a_queue_without_a_group_has_none():
    assert own_group([], HERE, ALONE) is None


def test_the_neighbours_of_a_job_are_the_other_jobs_of_its_queue():
    own, sibling = a_fact("stf/own", target="consumer", pod_ip=HERE), a_fact("stf/b", target="consumer", pod_ip=THERE)
    loader, pending = a_fact("stf/l", pod_ip="10.0.0.8"), a_fact("stf/p", target="consumer", pod=PodState.PENDING)
    book = policy.parse(POLICY)
    facts = [own, sibling, loader, pending]
    assert neighbours_of("stf/own", facts, lambda fact: book.for_job(fact).consumer) == Neighbours(
        consumers=2, addresses=(THERE, "10.0.0.8")
    )
    many = [a_fact(f"stf/{number}", pod_ip=f"10.1.0.{number}") for number in range(MOST_NEIGHBOURS + 1)]
    assert neighbours_of("stf/own", many, lambda _: False) is None


ADDRESSES = st.sampled_from([HERE, THERE, "10.0.0.8", NOWHERE_WE_KNOW, "name", ""])


@given(
    st.lists(st.lists(ADDRESSES, max_size=3).map(tuple), max_size=3),
    st.sampled_from([HERE, ""]),
    st.sampled_from([ALONE, LOADER, SIBLING, NOT_LISTED]),
)
def test_a_group_that_may_be_somebody_elses_excuses_nobody(hosts, pod_ip, neighbours):
    answer = chosen(*hosts, pod_ip=pod_ip, neighbours=neighbours)
    if isinstance(answer, Group) and answer.hosts:
        is_only_one = len(hosts) == 1 and not (neighbours is not None and neighbours.consumers)
        assert (pod_ip and pod_ip in answer.hosts) or is_only_one
    if isinstance(answer, Elsewhere):
        known = set() if neighbours is None else set(neighbours.addresses)
        assert all(set(each) <= known for each in hosts)


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
        (None, GroupLook(elsewhere="none of a, b has a live member"), Idle.BUSY, "in no consumer group: none of a, b"),
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


@given(
    st.lists(st.builds(Group, name=st.text(max_size=3), hosts=st.lists(st.text(max_size=3)).map(tuple))),
    st.text(),
    st.none() | st.builds(Neighbours, consumers=st.integers(0, 2), addresses=st.lists(st.text()).map(tuple)),
)
def test_a_chosen_group_is_one_of_those_there_are(groups, pod_ip, neighbours):
    answer = own_group(groups, pod_ip, neighbours)
    assert answer is None or isinstance(answer, str | Elsewhere) or answer in groups
