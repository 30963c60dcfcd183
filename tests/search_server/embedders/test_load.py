"""What a gateway remembers of one worker decides which worker is asked next."""

from __future__ import annotations

import pytest

from search_server.embedders.load import CallSize, Load
from sentinel_core.errors import ResourceExhausted
from sentinel_store.items import Kind

TEXT = CallSize.of(1, Kind.TEXT, bulk=False)
BATCH = CallSize.of(64, Kind.IMAGE, bulk=True)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def load(clock: Clock) -> Load:
    return Load(clock)


def answer(load: Load, clock: Clock, seconds: float, size: CallSize = TEXT) -> None:
    with load.call(size):
        clock.now += seconds


def refuse(load: Load, size: CallSize, retry_after_s: float | None) -> None:
    with pytest.raises(ResourceExhausted), load.call(size):
        raise ResourceExhausted("QUEUE_FULL", "full", retry_after_s=retry_after_s)


def test_a_slow_worker_costs_more_until_it_is_forgotten(load: Load, clock: Clock) -> None:
    for _ in range(100):
        answer(load, clock, 0.1)
    assert load.cost(TEXT, best_s=0.01) == pytest.approx(0.1, rel=0.05)
    clock.now += 60
    assert load.cost(TEXT, best_s=0.01) == pytest.approx(0.01)


def test_one_slow_answer_among_the_first_is_soon_forgiven(load: Load, clock: Clock) -> None:
    answer(load, clock, 0.3)
    for _ in range(5):
        answer(load, clock, 0.01)
    assert load.cost(TEXT, best_s=0.01) < 0.02


def test_each_kind_of_call_has_its_own_latency(load: Load, clock: Clock) -> None:
    answer(load, clock, 2.0, BATCH)
    answer(load, clock, 0.01)
    assert load.latency_s(TEXT) == pytest.approx(0.01)
    assert load.latency_s(BATCH) == pytest.approx(2.0)


def test_a_worker_that_does_not_answer_costs_what_it_takes(load: Load, clock: Clock) -> None:
    for _ in range(10):
        answer(load, clock, 0.01)
    with load.call(TEXT):
        clock.now += 5
        assert load.cost(TEXT, best_s=0.01) == pytest.approx(5 * 2)
    assert load.items == 0


def test_a_worker_that_tries_a_suspect_costs_more(load: Load) -> None:
    before = load.cost(TEXT, best_s=0.01)
    with load.trial(Kind.IMAGE):
        assert load.cost(TEXT, best_s=0.01) > before
    assert load.cost(TEXT, best_s=0.01) == before


def test_a_full_worker_is_not_asked_again_before_its_time(load: Load, clock: Clock) -> None:
    refuse(load, TEXT, 0.5)
    clock.now += 0.2
    refusal = load.refusal(TEXT)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(0.3)
    assert load.is_full
    clock.now += 0.3
    assert load.refusal(TEXT) is None
    assert not load.is_full


def test_it_is_asked_again_once_it_has_answered_something(load: Load, clock: Clock) -> None:
    refuse(load, TEXT, 30.0)
    answer(load, clock, 0.01, BATCH)
    assert load.refusal(TEXT) is None


def test_it_is_asked_again_each_second_however_long_it_says(load: Load, clock: Clock) -> None:
    refuse(load, TEXT, 30.0)
    clock.now += 0.9
    refusal = load.refusal(TEXT)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(29.1)
    clock.now += 0.2
    assert load.refusal(TEXT) is None


def test_what_a_batch_is_refused_a_search_may_still_get(load: Load) -> None:
    refuse(load, BATCH, 10.0)
    assert load.refusal(BATCH) is not None
    assert load.refusal(CallSize.of(63, Kind.IMAGE, bulk=True)) is None
    assert load.refusal(TEXT) is None


def test_a_full_worker_that_names_no_time_is_asked_again_soon(load: Load, clock: Clock) -> None:
    refuse(load, TEXT, None)
    assert load.refusal(TEXT) is not None
    clock.now += 0.1
    assert load.refusal(TEXT) is None
