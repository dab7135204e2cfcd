"""What Prometheus can ask of the operator. Names follow its conventions; no label takes unbounded values."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.status import Phase

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The operator's series, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # nobody asks when a series began
        self.registry = CollectorRegistry()
        self.reconcile_duration = Histogram(
            "finetune_reconcile_duration_seconds",
            "Time to bring one job up to date",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "finetune_reconcile_errors", "Attempts that failed and are tried again", ["error"], registry=self.registry
        )
        self.api_requests = Counter(
            "finetune_api_requests",
            "Requests to the API server beside watches; code 0 is no answer",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.progress_reads = Counter(
            "finetune_progress_reads", "Readings of running pods", ["result"], registry=self.registry
        )
        self.leader = Gauge("finetune_leader", "1 while this replica writes", registry=self.registry)
        build = Gauge(
            "finetune_build_info", "Always 1; the label tells the version", ["version"], registry=self.registry
        )
        build.labels(version("finetune-operator")).set(1)
        ProcessCollector(registry=self.registry)

    def observe_jobs(self, phases: Callable[[], Iterable[str]]) -> None:
        """Count jobs by phase when asked."""
        self.registry.register(_Jobs(phases))

    def observe_queue(self, depth: Callable[[], float]) -> None:
        """Tell how many jobs wait to be worked on."""
        gauge = Gauge("finetune_workqueue_depth", "Jobs that wait to be worked on", registry=self.registry)
        gauge.set_function(depth)

    def observe_watches(self, ages: Callable[[], dict[str, float]]) -> None:
        """Tell how long each watch has been silent."""
        self.registry.register(_Watches(ages))

    def count_request(self, verb: str, resource: str, code: int) -> None:
        """Count one request to the API server."""
        self.api_requests.labels(verb, resource, str(code)).inc()

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)


class _Jobs(Collector):
    def __init__(self, phases: Callable[[], Iterable[str]]) -> None:
        self._phases = phases

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("finetune_jobs", "FineTuneJobs by phase", labels=["phase"])
        jobs = Tally(self._phases())
        for phase in Phase:
            family.add_metric([phase], jobs[phase])
        yield family


class _Watches(Collector):
    def __init__(self, ages: Callable[[], dict[str, float]]) -> None:
        self._ages = ages

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "finetune_watch_age_seconds", "Time since a watch last brought an event or a bookmark", labels=["resource"]
        )
        for resource, age in self._ages().items():
            family.add_metric([resource], age)
        yield family
