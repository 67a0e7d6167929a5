"""Label and field selectors of list and watch requests. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from sf_healer.local.kube.objects import JOB, POD, Kind, Object

Selector = Callable[[Object], bool]

_BETWEEN_TERMS = re.compile(r",(?![^(]*\))")
_SET = re.compile(r"^(?P<key>\S+)\s+(?P<how>in|notin)\s*\((?P<values>[^)]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^!=\s]+)\s*(?P<how>==|=|!=)\s*(?P<value>[^=]*)$")
_EXISTENCE = re.compile(r"^(?P<not>!?)\s*(?P<key>[A-Za-z0-9._/-]+)$")

_FIELDS: Mapping[Kind, frozenset[str]] = {
    JOB: frozenset({"metadata.name", "metadata.namespace", "status.successful"}),
    POD: frozenset({"metadata.name", "metadata.namespace", "status.phase", "status.podIP", "spec.nodeName"}),
}
_EVERY_KIND = frozenset({"metadata.name", "metadata.namespace"})


class BadSelector(ValueError):  # noqa: N818  # it says what is the matter
    """A selector that cannot be read, or asks for a field that the server has no index for (400)."""


def selector(kind: Kind, *, labels: str = "", fields: str = "") -> Selector:
    """Compile both selectors into one question; raises BadSelector."""
    wanted_labels = [_label_term(term) for term in _terms(labels)]
    wanted_fields = [_field_term(kind, term) for term in _terms(fields)]

    def selects(item: Object) -> bool:
        has = item["metadata"].get("labels") or {}
        return all(term(has) for term in wanted_labels) and all(term(item) for term in wanted_fields)

    return selects


def _terms(text: str) -> list[str]:
    return [term.strip() for term in _BETWEEN_TERMS.split(text) if term.strip()]


def _label_term(term: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(term):
        key, is_in = found["key"], found["how"] == "in"
        values = {value.strip() for value in found["values"].split(",")}
        return lambda labels: (key in labels and labels[key] in values) is is_in
    if found := _EQUALITY.match(term):
        key, value, equals = found["key"], found["value"].strip(), found["how"] != "!="
        return lambda labels: (labels.get(key) == value) is equals
    if found := _EXISTENCE.match(term):
        key, wanted = found["key"], not found["not"]
        return lambda labels: (key in labels) is wanted
    raise BadSelector(f"unable to parse requirement: {term}")


def _field_term(kind: Kind, term: str) -> Selector:
    found = _EQUALITY.match(term)
    if found is None:
        raise BadSelector(f"invalid selector: '{term}'; can't understand '{term}'")
    path, value, equals = found["key"], found["value"].strip(), found["how"] != "!="
    if path not in _FIELDS.get(kind, _EVERY_KIND):
        raise BadSelector(f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"')
    if path == "status.successful":  # the Job's count of succeeded pods
        path = "status.succeeded"
    return lambda item: (_at(item, path) == value) is equals


def _at(item: Object, path: str) -> str:
    place: Any = item
    for step in path.split("."):
        place = place.get(step) if isinstance(place, Mapping) else None
    if place is None:
        return "0" if path == "status.succeeded" else ""
    return str(place)
