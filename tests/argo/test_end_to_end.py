"""Canaries of queue-manager on a real control plane, with the real rollouts controller and a real Prometheus.

Real: API server, scheduler, controllers, rollouts controller, Prometheus, every file of argo/ (made quick by
kustomize), the commands of its page. Played: Pods are processes (tests/lab/argo/traffic.py), and so are kube-proxy and
Traefik. All canaries run side by side, once for all tests here.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest
import yaml

from tests.argo.controlled import controlled
from tests.argo.files import ARGO, documents
from tests.argo.scenario import Scenario, canary_of, commands, made_quick, platform, scrape_config
from tests.lab.argo.traffic import LOST, Client, Router, Sent, Serving, through
from tests.lab.beside import Looking
from tests.lab.process import Server
from tests.lab.prometheus.server import Prometheus
from tests.lab.receiver import Receiver
from tests.lab.waiting import until
from tests.manifests.built import Name, kustomize

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.argo.controller import Controller
    from tests.lab.kube import ControlPlane

pytestmark = [
    pytest.mark.kube,
    pytest.mark.crds,
    pytest.mark.prometheus,
    pytest.mark.argo,
    pytest.mark.timeout(1200),
]

GOOD = Scenario("good")
SLOW = Scenario("slow", canary=("--slow", "0.7"))
FAILING = Scenario("failing", canary=("--fail", "0.4"))
OUTAGE = Scenario("outage", canary=("--fail", "0.3"), stable=("--fail", "0.3"))
UNSEEN = Scenario("unseen", asked=False)
UNMEASURED = Scenario("unmeasured", asked=False, without_the_wait=True)
SCENARIOS = (GOOD, SLOW, FAILING, OUTAGE, UNSEEN, UNMEASURED)

REQUESTS_A_SECOND = 20.0
READY_SECONDS = 180.0
CONCLUDED_SECONDS = 480.0
WINDOW_SECONDS = 300.0  # of the recording rules: it is the shipped one here, too
LOOK_SECONDS = 0.25
SERVES_ON_SECONDS = 10.0  # how long requests go on after the end
LATE_SECONDS = 6.0  # what is answered then was chosen after the router saw it, and its view is old on a busy machine
PAGE_BASES = {"argo/migration": "migration", "argo": "overlays/traefik"}


class Look(msgspec.Struct, frozen=True):
    """A Rollout at a moment (monotonic seconds)."""

    at: float
    phase: str
    aborted: bool
    weight: int  # of the canary, as the router has it
    canary: str
    stable: str
    message: str


class Story(msgspec.Struct):
    """What happened in a namespace."""

    scenario: Scenario
    looks: list[Look] = []
    weights: list[int] = []  # of the canary, each change, from a watch
    outside: list[Sent] = []
    inside: list[Sent] = []
    runs: list[dict[str, Any]] = []
    began: float = 0.0
    ended: float = 0.0
    old: str = ""
    new: str = ""

    def at_weight(self, weight: int) -> tuple[float, float]:
        """Give from when until when the canary first had a weight, as it was seen."""
        since = next(look.at for look in self.looks if look.weight == weight and look.at >= self.began)
        until_ = next((look.at for look in self.looks if look.at > since and look.weight != weight), self.ended)
        return since, until_


class Watching(Looking):
    """Looks at all Rollouts and weights again and again, and keeps what changes."""

    def __init__(self, plane: ControlPlane, stories: dict[str, Story]) -> None:
        super().__init__("watching", every_seconds=LOOK_SECONDS)
        self._plane, self._stories = plane, stories

    def look(self) -> None:
        """Note how every Rollout stands."""
        try:
            rollouts = self._plane.call("GET", "/apis/argoproj.io/v1alpha1/rollouts").body.get("items", [])
            services = self._plane.call("GET", "/apis/traefik.io/v1alpha1/traefikservices").body.get("items", [])
        except OSError:
            return
        weights = {each["metadata"]["namespace"]: _canary_weight(each) for each in services}
        for rollout in rollouts:
            namespace, status = rollout["metadata"]["namespace"], rollout.get("status", {})
            look = Look(
                at=time.monotonic(),
                phase=status.get("phase", ""),
                aborted=status.get("abort", False),
                weight=weights.get(namespace, 0),
                canary=status.get("currentPodHash", ""),
                stable=status.get("stableRS", ""),
                message=status.get("message", ""),
            )
            if namespace in self._stories:
                self._stories[namespace].looks.append(look)


def _canary_weight(service: dict[str, Any]) -> int:
    found = [each for each in service["spec"]["weighted"]["services"] if each["name"] == "queue-manager-canary"]
    return int(found[0].get("weight", 0))


class Lab:
    """Everything that runs, and how a scenario is played on it."""

    def __init__(self, plane: ControlPlane, at: Path, told: Receiver) -> None:
        self.plane, self.at = plane, at
        self.stories = {each.namespace: Story(each, looks=[], weights=[]) for each in SCENARIOS}
        self.told = told
        self.exported: set[str] = set()
        self.series: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.info: list[dict[str, Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for scenario in SCENARIOS:
            self.plane.create_namespace(scenario.namespace)
        self._stack.callback(self._clean)
        self.serving = self._stack.enter_context(Serving(self.plane, self.at))
        controller = self._stack.enter_context(controlled(self.plane, self.at, self.told.url))
        self.prometheus = self._stack.enter_context(self._prometheus(controller))
        self._watch = Server("watch", self._watch_command(), log=self.at / "weights.log")
        self._watch.start()
        self._stack.callback(self._watch.stop)
        self._stack.enter_context(Watching(self.plane, self.stories))
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._watch.output().splitlines():
            namespace, _, weights = line.partition(" ")
            if namespace in self.stories and weights:
                self._note_weight(self.stories[namespace], int(weights.split()[-1]))
        self._stack.close()

    @staticmethod
    def _note_weight(story: Story, weight: int) -> None:
        if not story.weights or story.weights[-1] != weight:
            story.weights.append(weight)

    def _watch_command(self) -> list[str]:
        path = '{.metadata.namespace}{" "}{.spec.weighted.services[*].weight}{"\\n"}'
        kubeconfig = f"--kubeconfig={self.plane.kubeconfig}"
        binary = str(self.plane._binary)
        return [binary, "kubectl", kubeconfig, "get", "traefikservices", "-A", "--watch", "-o", f"jsonpath={path}"]

    def _prometheus(self, controller: Controller) -> Prometheus:
        """Start a Prometheus with the quick forms of the shipped PodMonitor and rules, and the controller's metrics."""
        built = composed_from(made_quick(GOOD, "http://unused", self.at / "rules", base="overlays/traefik"))
        scrapes = [scrape_config(built[Name("PodMonitor", "queue-manager")], self.serving.targets)]
        (monitor,) = documents(ARGO / "controller" / "pod-monitor.yaml")
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        labels = {"namespace": "argo-rollouts", "pod": "argo-rollouts-x"}
        scrapes.append({
            "job_name": "argo-rollouts",
            "honor_labels": endpoint["honorLabels"],
            "scrape_interval": "1s",
            "static_configs": [{"targets": [controller.address], "labels": labels}],
        })  # fmt: skip
        names = ("queue-manager-adapter", "queue-manager-canary")
        groups = [group for name in names for group in built[Name("PrometheusRule", name)]["spec"]["groups"]]
        return Prometheus(self.at / "prometheus", scrapes=scrapes, groups=groups)

    def _clean(self) -> None:
        for scenario in SCENARIOS:
            self.plane.kubectl("delete", "namespace", scenario.namespace, "--wait=false")

    # ------------------------------------------------------------------ one scenario

    def play(self, scenario: Scenario) -> Story:
        """Migrate by the page, let a canary go, and wait for its end; the good one is migrated back, too."""
        story = self.stories[scenario.namespace]
        view = partial(self.serving.view, scenario.namespace)
        self.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(platform(scenario)))
        until(lambda: through(view(), "queue-manager-svc"), "the platform's queue-manager", seconds=READY_SECONDS)
        outside = Client(Router(view), a_second=REQUESTS_A_SECOND, at_once=4)
        inside = Client(lambda: through(view(), "queue-manager-svc"), a_second=5.0, at_once=2)
        with ExitStack() as clients:
            if scenario.asked:
                clients.enter_context(outside)
                clients.enter_context(inside)
            self._migrate(scenario)
            story.old = self._look(story).stable
            story.began = time.monotonic()
            patch = json.dumps(canary_of(scenario))
            self._kubectl(scenario, ["-n", "stf", "patch", "deploy", "queue-manager", "-p", patch])
            until(lambda: self._is_over(story), f"the end of {scenario.name}", seconds=CONCLUDED_SECONDS)
            story.new = self._look(story).canary
            story.ended = time.monotonic()
            goes_on_until = story.ended + SERVES_ON_SECONDS
            until(lambda: time.monotonic() > goes_on_until, "a few more requests", seconds=READY_SECONDS)
            if scenario is UNSEEN:
                self._try_again(story)
            story.runs = self._runs(scenario)
            if scenario is GOOD:
                self._migrate_back(scenario)
        story.outside, story.inside = outside.sent, inside.sent
        return story

    def until_scraped_again(self) -> None:
        """Return when Prometheus knows of the controller what is true now, not what was before the last look."""
        news = f'timestamp(up{{job="argo-rollouts"}}) > {time.time() + LOOK_SECONDS}'
        until(lambda: self.prometheus.ask(news), "the controller's news in Prometheus", seconds=READY_SECONDS)

    def _migrate(self, scenario: Scenario) -> None:
        for words in commands("Migration, without losing a request"):
            if words[2:] == ["get", "deploy", "queue-manager"]:
                continue  # a person looks at it
            self._kubectl(scenario, words)

    def _try_again(self, story: Story) -> None:
        (again,) = [words for words in commands("A rollout by hand") if '{"status":{"abort":false}}' in words]
        self._kubectl(story.scenario, again)
        until(lambda: not self._look(story).aborted, "the same canary again", seconds=READY_SECONDS)
        until(lambda: self._is_over(story), "its end", seconds=CONCLUDED_SECONDS)

    def _migrate_back(self, scenario: Scenario) -> None:
        view = partial(self.serving.view, scenario.namespace)
        for words in commands("Back, without losing a request"):
            if "-k" in words:
                until(lambda: view().weights is None, "the router to have forgotten", seconds=READY_SECONDS)
            self._kubectl(scenario, words)
            if "scale" in words:
                self._kubectl(scenario, ["-n", "stf", "rollout", "status", "deploy/queue-manager", "--timeout=60s"])
        left = "rollouts,analysistemplates,traefikservices,ingressroutes,podmonitors,prometheusrules"
        nothing = partial(self._kubectl, scenario, ["-n", "stf", "get", left, "--output=name"])
        until(lambda: not nothing(), "nothing of argo/ to be left", seconds=READY_SECONDS)
        goes_on_until = time.monotonic() + SERVES_ON_SECONDS
        until(lambda: time.monotonic() > goes_on_until, "a few more requests", seconds=READY_SECONDS)

    def _kubectl(self, scenario: Scenario, words: list[str]) -> str:
        """Run a command of the page here: in the scenario's namespace, with the quick form of a directory."""
        words = [scenario.namespace if word == "stf" else word for word in words]
        if "-k" in words:
            place = words.index("-k") + 1
            words[place] = str(self._made_quick(scenario, PAGE_BASES[words[place]]))
        return self.plane.kubectl(*words)

    def _made_quick(self, scenario: Scenario, base: str) -> Path:
        made = self.at / scenario.name / base
        return made if made.exists() else made_quick(scenario, self.prometheus.url, self.at, base=base)

    def _look(self, story: Story) -> Look:
        until(lambda: story.looks, "a look at the Rollout", seconds=READY_SECONDS)
        return story.looks[-1]

    def _is_over(self, story: Story) -> bool:
        look = self._look(story)
        if look.at < story.began or look.canary == story.old:
            return False
        healthy = look.phase == "Healthy" and look.stable == look.canary
        return look.weight == 0 and (look.aborted or healthy)

    def _runs(self, scenario: Scenario) -> list[dict[str, Any]]:
        path = f"/apis/argoproj.io/v1alpha1/namespaces/{scenario.namespace}/analysisruns"
        items: list[dict[str, Any]] = self.plane.call("GET", path).body["items"]
        return items


def composed_from(directory: Path) -> dict[Name, Any]:
    return {Name(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(kustomize(directory))}


@pytest.fixture(scope="module")
def lab(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Play all scenarios side by side; what they left behind is asked by the tests."""
    with Receiver() as told, Lab(cluster, tmp_path_factory.mktemp("canaries"), told) as lab:
        with ThreadPoolExecutor(len(SCENARIOS)) as players:
            for played in [players.submit(lab.play, scenario) for scenario in SCENARIOS]:
                played.result()
        lab.until_scraped_again()
        lab.exported = {each["metric"]["__name__"] for each in lab.prometheus.ask('{job="argo-rollouts"}')}
        lab.series = lab.prometheus.ask("last_over_time(http_requests_total[20m])")
        lab.events = lab.prometheus.ask('rollout_events_total{reason="RolloutAborted"}')
        lab.info = lab.prometheus.ask("rollout_info")
    return lab


def story_of(lab: Lab, scenario: Scenario) -> Story:
    return lab.stories[scenario.namespace]


ABORTED = [SLOW, FAILING, UNSEEN, UNMEASURED]


@pytest.mark.parametrize("scenario", [GOOD, OUTAGE], ids=lambda each: each.name)
def test_a_good_canary_goes_through_every_weight(lab: Lab, scenario: Scenario):
    story = story_of(lab, scenario)
    assert story.weights == [0, 10, 25, 50, 100, 0]
    assert story.new != story.old
    assert not any(look.aborted for look in story.looks)
    assert {each["status"]["phase"] for each in story.runs} == {"Successful"}
    templates = {metric["name"] for each in story.runs for metric in each["spec"]["metrics"]}
    assert templates == {"samples", "error-ratio", "slow-ratio", "p95-times-stable"}


def test_requests_go_by_the_weights(lab: Lab):
    story = story_of(lab, GOOD)
    for weight in (10, 25, 50):
        since, until_ = story.at_weight(weight)
        during = [each for each in story.outside if since + 1.0 < each.at < until_ - 0.5]
        share = 100 * sum(each.version == story.new for each in during) / len(during)
        assert abs(share - weight) < 5, (weight, share, len(during))


def test_from_the_migration_to_the_way_back_nobody_is_left_without_an_answer(lab: Lab):
    story = story_of(lab, GOOD)
    assert len(story.outside) > 300
    assert [each for each in (*story.outside, *story.inside) if each.status != 200] == []
    assert {each.version for each in story.outside} == {"", story.old, story.new}, "the Deployment's, and both versions"
    assert story.outside[-1].version == "", "and in the end the Deployment's again"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_no_request_is_lost_whatever_becomes_of_the_canary(lab: Lab, scenario: Scenario):
    story = story_of(lab, scenario)
    assert [each for each in (*story.outside, *story.inside) if each.status == LOST] == []


@pytest.mark.parametrize("scenario", [GOOD, SLOW, FAILING], ids=lambda each: each.name)
def test_who_calls_in_the_cluster_never_meets_a_canary(lab: Lab, scenario: Scenario):
    story = story_of(lab, scenario)
    promoted = next((look.at for look in story.looks if look.stable == story.new), float("inf"))
    assert [each for each in story.inside if each.version == story.new and each.at < promoted - 1.0] == []
    assert story.inside


@pytest.mark.parametrize(
    ("scenario", "metrics"),
    [
        (SLOW, ("slow-ratio", "p95-times-stable")),
        (FAILING, ("error-ratio",)),
        (UNSEEN, ("samples",)),
        (UNMEASURED, ("samples", "error-ratio", "slow-ratio", "p95-times-stable")),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_a_bad_canary_is_taken_back_for_its_reason(lab: Lab, scenario: Scenario, metrics: tuple[str, ...]):
    story = story_of(lab, scenario)
    last = next(look for look in reversed(story.looks) if look.at <= story.ended)
    assert last.aborted
    assert last.stable == story.old
    assert story.weights[:2] == [0, 10]
    assert story.weights[-1] == 0
    assert 100 not in story.weights
    failed = {
        result["name"]
        for run in story.runs
        if run["status"]["phase"] in {"Failed", "Error"}
        for result in run["status"]["metricResults"]
        if result["phase"] == "Failed"
    }
    assert failed, [run["status"] for run in story.runs]
    assert failed <= set(metrics)
    assert "Error" not in {run["status"]["phase"] for run in story.runs}


def test_a_canary_that_was_taken_back_is_tried_again_when_a_person_says_so(lab: Lab):
    story = story_of(lab, UNSEEN)
    assert story.weights == [0, 10, 0, 10, 0]
    assert [key for key, _ in groupby(look.aborted for look in story.looks)] == [False, True, False, True]
    assert [each["status"]["phase"] for each in story.runs] == ["Failed", "Failed"]


def test_where_each_of_them_was_stopped(lab: Lab):
    reached = {scenario.name: max(story_of(lab, scenario).weights) for scenario in ABORTED}
    assert reached["unseen"] == 10, "the wait for traffic fails closed"
    assert reached["unmeasured"] == 50, "the gate fails closed"
    assert reached["slow"] <= 25
    assert reached["failing"] <= 25


@pytest.mark.parametrize("scenario", [SLOW, FAILING], ids=lambda each: each.name)
def test_the_traffic_is_back_within_the_window_and_stays_away(lab: Lab, scenario: Scenario):
    story = story_of(lab, scenario)
    since, _ = story.at_weight(10)
    back = next(look.at for look in story.looks if look.at > since and look.weight == 0)
    assert back - since < WINDOW_SECONDS
    after = [each for each in story.outside if each.at > back + LATE_SECONDS]
    assert after
    assert {each.version for each in after} == {story.old}
    assert {each.status for each in after} == {200}


def test_an_outage_of_both_is_seen_by_the_canary_and_not_blamed_on_it(lab: Lab):
    story = story_of(lab, OUTAGE)
    failed = [each for each in story.outside if each.status == 503]
    assert {each.version for each in failed} >= {story.old, story.new}


def test_metrics_carry_the_request_path_and_the_version(lab: Lab):
    assert lab.series
    for each in lab.series:
        labels = each["metric"]
        assert labels["endpoint"].startswith("/"), "the operator's own endpoint would be the name of a port"
        assert "exported_endpoint" not in labels
    versions = {each["metric"].get("rollouts_pod_template_hash") for each in lab.series}
    assert {story_of(lab, GOOD).new, story_of(lab, SLOW).new} <= versions


def test_the_alerts_rest_on_what_the_controller_really_exports(lab: Lab):
    assert {"rollout_info", "rollout_events_total", "analysis_run_info"} <= lab.exported
    aborted = {each["metric"]["namespace"] for each in lab.events}
    assert aborted == {scenario.namespace for scenario in ABORTED}
    phases = {each["metric"]["namespace"]: each["metric"]["phase"] for each in lab.info}
    assert {namespace for namespace, phase in phases.items() if phase == "Abort"} == aborted
    assert phases[OUTAGE.namespace] == "Completed"
    assert {each["metric"]["name"] for each in lab.info} == {"queue-manager"}


def test_somebody_is_told_of_each_that_was_taken_back(lab: Lab):
    told = [json.loads(body) for body in lab.told.bodies]
    by_what = {what: {each["namespace"] for each in told if each["what"] == what} for what in {e["what"] for e in told}}
    taken_back = {scenario.namespace for scenario in ABORTED}
    assert by_what["rollout-aborted"] == by_what["analysis-run-failed"] == taken_back
    assert by_what["rollout-completed"] >= {GOOD.namespace, OUTAGE.namespace}
    assert all(each["rollout"] == "queue-manager" for each in told)


def test_weights_only_rise_until_the_end(lab: Lab):
    for scenario in set(SCENARIOS) - {UNSEEN}:  # that one is tried again
        weights = story_of(lab, scenario).weights
        assert all(later > earlier for earlier, later in pairwise(weights[:-1])), (scenario.name, weights)
