"""What the templates' queries say of a good canary, a slow one, an outage of both and so on, as promtool sees them.

The series are what queue-manager exports; adapter and recording rules are the shipped ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.argo.files import ARGO, documents
from tests.lab.prometheus.rules import fired_in, promtool

pytestmark = pytest.mark.prometheus

CANARY, STABLE = "6d4b75cb6d", "5f7c9d8b64"
RULES = [
    group
    for name in ("adapter", "recording-rules")
    for group in documents(ARGO / "base" / f"{name}.yaml")[0]["spec"]["groups"]
]
TEMPLATES = {name: documents(ARGO / "base" / f"analysis-{name}.yaml")[0]["spec"] for name in ("traffic", "slo", "gate")}
STEP_SECONDS, STEPS = 15, 80
ASKED_AT = "18m"

#: What a query says: within the limit, beyond it, no number, no row.
GOOD, BAD, NAN, EMPTY = "good", "bad", "NaN", "empty"


class Version(msgspec.Struct, frozen=True):
    """How one version of queue-manager answers; requests a step, of which so many in a hundred."""

    requests: float = 10
    slow: int = 0
    failed: int = 0
    namespace: str = "stf"
    takes: str = "0.1"  # seconds; the bucket of those that are not slow


def series(of: Version, version: str) -> list[dict[str, str]]:
    """Give what Prometheus has of one Pod after its PodMonitor's labels."""
    labels = f'namespace="{of.namespace}",pod="queue-manager-{version}-x",rollouts_pod_template_hash="{version}"'
    path = 'endpoint="/queues/queues/list"'
    fast = of.requests * (100 - of.slow) / 100
    buckets = {"0.05": 0.0, of.takes: fast, "0.5": fast, "1.0": of.requests, "10.0": of.requests, "+Inf": of.requests}
    found = [
        _rising(f'http_request_duration_seconds_bucket{{{labels},{path},le="{le}"}}', rate)
        for le, rate in buckets.items()
    ]
    found.append(_rising(f"http_request_duration_seconds_count{{{labels},{path}}}", of.requests))
    failed = of.requests * of.failed / 100
    for status, rate in (("200", of.requests - failed), ("503", failed)):
        if rate or status == "200":
            found.append(_rising(f'http_requests_total{{{labels},{path},method="GET",http_status="{status}"}}', rate))
    # Probes and scrapes are fast and always right, and there are many: they must not count.
    for other in ("/metrics", "/health/health/live"):
        found.append(_rising(f'http_request_duration_seconds_count{{{labels},endpoint="{other}"}}', 100))
        found.append(_rising(f'http_request_duration_seconds_bucket{{{labels},endpoint="{other}",le="0.5"}}', 100))
        found.append(_rising(f'http_requests_total{{{labels},endpoint="{other}",method="GET",http_status="200"}}', 100))
    return found


def _rising(name: str, rate: float) -> dict[str, str]:
    return {"series": name, "values": f"0+{rate:g}x{STEPS}"}


FIRST_ERROR = {
    "series": (
        f'http_requests_total{{namespace="stf",pod="queue-manager-{CANARY}-x",rollouts_pod_template_hash="{CANARY}",'
        'endpoint="/queues/queues/list",method="POST",http_status="500"}'
    ),
    "values": "_x66 1x14",  # a counter that nobody has incremented has no series: it begins with 1
}
ALL_GOOD = {"samples": GOOD, "error-ratio": GOOD, "slow-ratio": GOOD, "p95-times-stable": GOOD}
NONE = {"samples": BAD, "error-ratio": EMPTY, "slow-ratio": EMPTY, "p95-times-stable": EMPTY}

CASES: dict[str, tuple[list[dict[str, str]], dict[str, str]]] = {
    "good": (series(Version(), CANARY) + series(Version(), STABLE), ALL_GOOD),
    "slow": (
        series(Version(slow=20), CANARY) + series(Version(), STABLE),
        ALL_GOOD | {"slow-ratio": BAD, "p95-times-stable": BAD},
    ),
    "four times as slow, and still fast": (
        series(Version(takes="0.25"), CANARY) + series(Version(takes="0.06"), STABLE),
        ALL_GOOD,
    ),
    "failing": (series(Version(failed=20), CANARY) + series(Version(), STABLE), ALL_GOOD | {"error-ratio": BAD}),
    "an outage of both": (
        series(Version(slow=60, failed=40), CANARY) + series(Version(slow=60, failed=40), STABLE),
        ALL_GOOD,
    ),
    "an outage, and much worse": (
        series(Version(slow=90, failed=90), CANARY) + series(Version(slow=10, failed=10), STABLE),
        ALL_GOOD | {"error-ratio": BAD, "slow-ratio": BAD},
    ),
    "no traffic": (series(Version(requests=0), CANARY) + series(Version(), STABLE),
        {"samples": BAD, "error-ratio": NAN, "slow-ratio": NAN, "p95-times-stable": NAN}),
    "not scraped": (series(Version(), STABLE), NONE),
    "in another namespace": (series(Version(namespace="other"), CANARY) + series(Version(), STABLE), NONE),
    "bad, and stable has no traffic": (
        series(Version(slow=50, failed=50), CANARY) + series(Version(requests=0), STABLE),
        ALL_GOOD | {"error-ratio": BAD, "slow-ratio": BAD, "p95-times-stable": BAD},
    ),
    "bad, and stable is not scraped": (
        series(Version(slow=50, failed=50), CANARY),
        ALL_GOOD | {"error-ratio": BAD, "slow-ratio": BAD, "p95-times-stable": BAD},
    ),
    "its first error ever": ([*series(Version(), CANARY), FIRST_ERROR, *series(Version(), STABLE)], ALL_GOOD),
    "two errors of eight requests": (  # a quarter of them, and no sign of anything yet
        [
            each | ({"values": "_x60 0x5 1x5 2x10"} if "503" in each["series"] else {})
            for each in series(Version(requests=0.4, failed=20), CANARY)
        ]
        + series(Version(), STABLE),
        ALL_GOOD | {"samples": BAD},
    ),
}  # fmt: skip


def query_of(template: str, metric: str) -> tuple[str, str]:
    """Give a metric's query with the arguments in, and how its limit is asked for: `<= 0.05`."""
    spec = TEMPLATES[template]
    values = {each["name"]: each.get("value") for each in spec["args"]}
    values |= {"canary-hash": CANARY, "stable-hash": STABLE}
    (found,) = [each for each in spec["metrics"] if each["name"] == metric]

    def put_in(text: str) -> str:
        return re.sub(r"{{args\.([\w-]+)}}", lambda name: str(values[name[1]]), text)

    limit = re.search(r"result\[0\] ([<>]=) (\S+)$", put_in(found["successCondition"]))
    assert limit is not None
    return put_in(found["provider"]["prometheus"]["query"]), f"{limit[1]} bool {limit[2]}"


def asked(template: str, metric: str, said: str) -> dict[str, Any]:
    query, limit = query_of(template, metric)
    case: dict[str, Any] = {"eval_time": ASKED_AT, "exp_samples": [{"labels": "{}", "value": 1}]}
    match said:
        case "good":
            return case | {"expr": f"({query}) {limit}"}
        case "bad":
            return case | {"expr": f"1 - (({query}) {limit}) and ({query}) == ({query})"}
        case "NaN":
            return case | {"expr": f"({query}) != bool ({query})"}
        case _:
            return case | {"expr": query, "exp_samples": []}


@pytest.mark.parametrize("name", CASES)
def test_every_query_says_of_a_canary_what_it_should(name: str, tmp_path: Path):
    given, said = CASES[name]
    asks = [asked("traffic", "samples", said["samples"])]
    asks += [asked("gate", metric, said[metric]) for metric in said]
    asks += [asked("slo", metric, said[metric]) for metric in said if metric != "samples"]
    interval = f"{STEP_SECONDS}s"
    test = {"name": name, "interval": interval, "input_series": given, "promql_expr_test": asks}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": RULES}))
    cases = {"rule_files": ["rules.yaml"], "evaluation_interval": interval, "tests": [test]}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    promtool("check", "rules", "--lint=none", "rules.yaml", directory=tmp_path)
    promtool("test", "rules", "cases.yaml", directory=tmp_path)


def test_the_counter_of_ones_own_gives_the_same_as_the_adapter(tmp_path: Path):
    """What the component own-counter leaves: the same names and labels, counted by queue-manager itself."""
    labels = f'namespace="stf",pod="a",rollouts_pod_template_hash="{CANARY}"'
    own = [
        _rising(f'queue_requests_total{{{labels},status="error"}}', 2),
        _rising(f'queue_requests_total{{{labels},status="success"}}', 8),
    ]
    test = {"interval": f"{STEP_SECONDS}s", "input_series": own, "promql_expr_test": [asked("slo", "error-ratio", BAD)]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": RULES[1:]}))
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    promtool("test", "rules", "cases.yaml", directory=tmp_path)


def test_every_alert_fires_when_it_should_and_not_before(tmp_path: Path):
    groups = documents(ARGO / "base" / "alerts.yaml")[0]["spec"]["groups"]
    cases = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert fired_in(cases, groups, directory=tmp_path) == alerts
