from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from embedder_server.engine.engine import Admission, ServiceRate
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.types import Modality
from sentinel_core.errors import ResourceExhausted


def test_requests_enter_as_a_whole_or_not_at_all() -> None:
    metrics = EmbedderMetrics(CollectorRegistry())
    admission = Admission(10, metrics)

    def depth() -> float | None:
        return metrics.registry.get_sample_value(
            "sentinel_embedder_queue_items", {"modality": "text"}
        )

    with admission.admit({Modality.TEXT: 8}):
        assert depth() == 8
        with pytest.raises(ResourceExhausted) as caught, admission.admit({Modality.TEXT: 3}):
            pass
        with admission.admit({Modality.TEXT: 1, Modality.IMAGE: 1}):
            assert depth() == 9
    assert depth() == 0
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s == 1.0  # nothing measured yet


def test_the_wait_is_computed_from_the_measured_rate() -> None:
    now = 0.0
    rate = ServiceRate(lambda: now)
    rate.start()
    for now in (1.0, 2.0, 3.0, 4.0):  # noqa: B007 - the clock reads it
        rate.record(5)
    assert rate.seconds_for(10) == pytest.approx(2.0)  # 20 items in 4 s
    assert rate.seconds_for(1_000_000) == 30.0
    now = 100.0
    rate.start()  # after a rest
    now = 101.0
    rate.record(100)
    assert rate.seconds_for(1) == 0.05
    assert rate.seconds_for(50) == pytest.approx(0.5)
