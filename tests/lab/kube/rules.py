"""Rights as the rules of a Role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sf_healer.access import needed
from sf_healer.settings import Mode, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sf_healer.access import Access

Rules = list[dict[str, list[str]]]


def rules_of(accesses: Iterable[Access]) -> Rules:
    """Give a rule for each right."""
    return [{"apiGroups": [each.group], "resources": [each.resource], "verbs": [each.verb]} for each in accesses]


#: What a worker that heals needs, as the shipped manifests give it, and no more.
RULES = rules_of(need.access for need in needed(Role.ALL, Mode.HEAL))
