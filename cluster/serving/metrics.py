"""Numbers of a service for Prometheus, those of all its replicas in one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cluster.serving.admission import Admission
from cluster.serving.directors import Directors
from cluster.serving.release import Verdict
from cluster.serving.requests import WorkflowView
from wfr.trajectory import TurnKind

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROUTES = ("/v1/workflows", "/v1/chat/completions", "/v1/completions", "/v1/models", "/health")


class ServingMetrics:
    """One per replica; every series carries its name."""

    def __init__(self, replica: str) -> None:
        """Count from nought."""
        self._replica = replica
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "wfr_serving_requests", "Requests by route and status.", ("route", "status"),
            registry=registry,
        )  # fmt: skip
        self._request_seconds = Histogram(
            "wfr_serving_request_seconds", "From a request's head to the end of its answer.",
            ("route",), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._workflows = Counter(
            "wfr_serving_workflows", "Ended workflows by status and stop reason.",
            ("status", "stop_reason"), registry=registry,
        )  # fmt: skip
        self._workflow_seconds = Histogram(
            "wfr_serving_workflow_seconds", "From a workflow's place to its end.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._turns = Counter(
            "wfr_serving_turns", "Turns of the director by kind.", ("kind",), registry=registry
        )
        self._tokens = Counter(
            "wfr_serving_tokens", "Tokens that the director has written.", registry=registry
        )
        self._usd = Counter(
            "wfr_serving_cost_usd", "What operators have cost, in US dollars.", registry=registry
        )
        self._releases = Counter(
            "wfr_serving_releases", "Newer versions that took over or were taken back.",
            ("verdict",), registry=registry,
        )  # fmt: skip
        self._running = Gauge(
            "wfr_serving_running", "Requests that hold a place.", ("kind",), registry=registry
        )
        self._waiting = Gauge(
            "wfr_serving_waiting", "Requests in the queue.", ("kind",), registry=registry
        )
        self._version = Gauge(
            "wfr_serving_policy_version", "The version in force.", registry=registry
        )
        self._canary = Gauge(
            "wfr_serving_canary_version", "The version on trial; −1: none.", registry=registry
        )

    def count(self, path: str, status: int, seconds: float) -> None:
        """One request; paths that clients make up share one label."""
        route = next((r for r in _ROUTES if path == r or path.startswith(f"{r}/")), "other")
        self._requests.labels(route, str(status or 499)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def ended(self, view: WorkflowView) -> None:
        """One workflow."""
        self._workflows.labels(view.status, view.stop_reason or view.status).inc()
        self._workflow_seconds.observe(view.seconds)
        for turn in view.turns:
            self._turns.labels(turn.kind or TurnKind.MALFORMED.value).inc()
        self._tokens.inc(view.tokens.completion)
        self._usd.inc(view.cost_usd)

    def decided(self, verdict: Verdict) -> None:
        """A canary took over or was taken back."""
        self._releases.labels(verdict.value).inc()

    def text(self, places: Mapping[str, Admission], directors: Directors) -> str:
        """In Prometheus' format."""
        for kind, admission in places.items():
            self._running.labels(kind).set(admission.running)
            self._waiting.labels(kind).set(admission.waiting)
        release = directors.release
        self._version.set(release.stable)
        self._canary.set(-1 if release.canary is None else release.canary)
        return generate_latest(self._registry).decode()


def merged(texts: Mapping[str, str]) -> bytes:
    """Expositions of replicas as one; each sample gets the label `replica`."""

    class Collector:
        def collect(self) -> Iterable[Metric]:
            return _families(texts)

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


def _families(texts: Mapping[str, str]) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for replica, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                labels = {**sample.labels, "replica": replica}
                whole.add_sample(sample.name, labels, sample.value)
    yield from families.values()
