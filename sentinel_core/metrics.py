"""Prometheus metrics of a gRPC server.

Labels are bounded: method, code, stage, modality, outcome; never an id. Callers
pass the registry, so that tests and several servers in one process do not share one.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sentinel_core.load_report import LoadReport

# 18 of the latency bounds of gRPC proposal A66, in seconds: 0.5 ms to 10 s.
LATENCY_BUCKETS = (
    0.0006, 0.001, 0.002, 0.003, 0.005, 0.008, 0.013, 0.02, 0.03,
    0.05, 0.08, 0.13, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """Requests by method and code, and time by stage.

    Attributes:
        process: `embedder` or `gateway`; part of every metric's name.
        registry: Holds the process's metrics.
        load: The same for balancers: how busy the process is.
    """

    def __init__(self, process: str, registry: CollectorRegistry) -> None:
        self.process = process
        self.registry = registry
        self.load = LoadReport()
        self.request_duration = Histogram(
            f"sentinel_{process}_request_duration_seconds",
            "Time from receipt of a call to its end, streams included.",
            ["method", "code"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.errors = Counter(
            f"sentinel_{process}_errors_total",
            "Calls that failed, by error reason; by code where there is none.",
            ["method", "reason"],
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            f"sentinel_{process}_requests_in_flight", "Calls being served.", registry=registry
        )
        self.stage_duration = Histogram(
            f"sentinel_{process}_stage_duration_seconds",
            "Time spent in one stage of a call.",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        # Looking a child up by its label costs as much as observing it. Bounded, as the labels are.
        self._stage = cache(self.stage_duration.labels)
        self.items = Counter(
            f"sentinel_{process}_items_total",
            "Items handled, by outcome: ok or the error reason.",
            ["operation", "outcome"],
            registry=registry,
        )
        self.batch_size = Histogram(
            f"sentinel_{process}_batch_size_items",
            "Items in one batch.",
            ["operation"],
            buckets=SIZE_BUCKETS,
            registry=registry,
        )

    def stage(self, name: str) -> Stage:
        """Return a `with` block whose time is recorded as stage `name`, also when it raises."""
        return Stage(self, name)

    def observe_stage(self, name: str, seconds: float) -> None:
        """Record that stage `name` took `seconds`."""
        self._stage(name).observe(seconds)


class Stage:
    """A `with` block whose time is recorded.

    Attributes:
        seconds: What it took, once it has ended.
    """

    __slots__ = ("_metrics", "_name", "_start", "seconds")

    def __init__(self, metrics: ServerMetrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self.seconds = 0.0

    def __enter__(self) -> Stage:
        self._start = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self._start
        self._metrics.observe_stage(self._name, self.seconds)
