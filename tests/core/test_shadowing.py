"""Which policies no Job can ever get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.adapters.policy_file import SHIPPED_POLICY, read
from sf_healer.core.policy import PolicyBook, parse
from sf_healer.core.shadowing import shadowed
from tests.core.strategies import a_fact

if TYPE_CHECKING:
    from sf_healer.core.facts import JobFact


def book_of(*rules: str) -> PolicyBook:
    return parse("".join(f'[[policy]]\nname = "p{number}"\n{rule}\n' for number, rule in enumerate(rules)))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ('names = ["*"]', 'targets = ["a"]'),
        ('targets = ["a", "b"]', 'targets = ["b"]\nnames = ["loader-*"]'),
        ('names = ["loader-*"]', 'names = ["loader-btc-*", "loader-x"]'),
        ('names = ["loader-?"]', 'names = ["loader-x"]'),
        ('labels = {team = "data"}', 'labels = {team = "data", tier = "1"}'),
        ('targets = ["a"]', 'targets = ["a"]'),
    ],
)
def test_a_policy_whose_jobs_an_earlier_one_takes_is_never_used(earlier, later):
    (found,) = shadowed(book_of(earlier, later))
    assert (found.place, found.name, found.by) == (1, "p1", ("p0",))


def test_several_may_take_a_policys_jobs_together():
    (found,) = shadowed(book_of('targets = ["a"]', 'targets = ["b"]', 'targets = ["a", "b"]'))
    assert (found.name, found.by) == ("p2", ("p0", "p1"))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ('targets = ["a"]', 'targets = ["a", "b"]'),
        ('targets = ["a"]', 'names = ["*"]'),
        ('names = ["loader-*"]', 'targets = ["a"]'),
        ('names = ["loader-*"]', 'names = ["load*"]'),
        ('names = ["loader-?"]', 'names = ["loader-*"]'),
        ('labels = {team = "data"}', 'labels = {team = "other"}'),
        ('names = ["*"]\nlabels = {team = "data"}', 'targets = ["a"]'),
    ],
)
def test_a_policy_that_a_job_may_get_is_none(earlier, later):
    assert list(shadowed(book_of(earlier, later))) == []


def test_the_shipped_policies_are_all_of_use():
    assert list(shadowed(read(SHIPPED_POLICY).book)) == []


TARGETS = st.lists(st.sampled_from("ab"), max_size=2, unique=True)
NAMES = st.lists(st.sampled_from(["*", "a*", "ab", "a?", "?b", "[ab]*", "b"]), max_size=2)
LABELS = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
RULES = st.tuples(TARGETS, NAMES, LABELS).filter(any)


def as_text(rule) -> str:
    targets, names, labels = rule
    told = ", ".join(f'{label} = "{value}"' for label, value in labels.items())
    return f"targets = {targets}\nnames = {names}\nlabels = {{{told}}}"


JOBS = st.builds(
    lambda name, target, labels: a_fact(f"stf/{name}", target=target, labels=labels),
    st.text("abc", min_size=1, max_size=3),
    st.sampled_from("abc"),
    LABELS,
)


@given(st.lists(RULES, min_size=2, max_size=4).map(lambda rules: book_of(*map(as_text, rules))), st.lists(JOBS))
def test_no_job_gets_a_policy_that_is_called_never_used(book: PolicyBook, jobs: list[JobFact]):
    never = {found.name for found in shadowed(book)}
    assert not never & {book.for_job(job).name for job in jobs}
