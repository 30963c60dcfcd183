"""What the gateway's log and metric say about a problem, and how often."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from search_server import health
from sentinel_core.errors import Unavailable
from sentinel_core.metrics import ServerMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def problems(registry: CollectorRegistry) -> health.Problems:
    return health.Problems(ServerMetrics("gateway", registry))


def gauge(registry: CollectorRegistry, reason: str) -> float | None:
    return registry.get_sample_value("sentinel_gateway_problem", {"reason": reason})


STORE = Unavailable("STORE_UNAVAILABLE", "Milvus does not answer")
OBJECTS = Unavailable("OBJECT_STORE_UNAVAILABLE", "it is full; make room")


def test_a_problem_is_one_line_in_30_seconds_and_a_metric_while_it_lasts(
    problems: health.Problems,
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    monkeypatch.setattr(health.time, "monotonic", lambda: now)
    for _ in range(59):  # a look every half second
        problems.update(STORE)
        now += 0.5
    assert [record.message for record in caplog.records] == ["not serving"]
    assert gauge(registry, "STORE_UNAVAILABLE") == 1
    now += 0.5
    problems.update(STORE)
    assert len(caplog.records) == 2
    problems.update(None)
    assert caplog.records[-1].message == "a problem is over"
    assert gauge(registry, "STORE_UNAVAILABLE") == 0
    problems.update(STORE)  # a new one is told at once
    assert len(caplog.records) == 4


def test_messages_that_take_turns_do_not_fill_the_log(
    problems: health.Problems, caplog: pytest.LogCaptureFixture
) -> None:
    other = Unavailable("STORE_UNAVAILABLE", "Milvus is not connected yet")
    for _ in range(20):
        problems.update(STORE)
        problems.update(other)
    assert len(caplog.records) == 2


def test_a_gateway_may_have_several_problems_at_once(
    problems: health.Problems, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    problems.update(STORE, [OBJECTS])
    assert [record.message for record in caplog.records] == ["not serving", "degraded"]
    problems.update(None, [OBJECTS])
    assert gauge(registry, "STORE_UNAVAILABLE") == 0
    assert gauge(registry, "OBJECT_STORE_UNAVAILABLE") == 1
