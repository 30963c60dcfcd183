"""Admission: limits in units and in seconds, measured rates, light callers beside heavy ones."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from sentinel_core.admission import Admission, Admitted, Demand, ServiceRate, export
from sentinel_core.errors import ResourceExhausted
from sentinel_core.metrics import ServerMetrics


class Server:
    """An admission whose work is done at a fixed rate, on a clock that only `run` moves."""

    def __init__(self, *, rate: float, most: int = 256, **options: float) -> None:
        self.now = 0.0
        self.rate = rate
        self.admission = Admission(
            {"searches": most, "characters": 10_000},
            lambda wait_s: ResourceExhausted("OVERLOADED", "full", retry_after_s=wait_s),
            clock=lambda: self.now,
            **options,
        )
        self.queue: deque[tuple[float, str, ExitStack]] = deque()
        self.waits: dict[str, list[float]] = {}
        self.refused: dict[str, int] = {}
        self._done = 0.0

    def ask(self, caller: str, searches: int = 1, characters: int = 10) -> bool:
        held = ExitStack()
        cost = {"searches": searches, "characters": characters}
        try:
            held.enter_context(self.admission.admit(cost, caller))
        except ResourceExhausted as error:
            assert error.retry_after_s is not None
            assert 0.05 <= error.retry_after_s <= 5
            self.refused[caller] = self.refused.get(caller, 0) + 1
            return False
        self.queue.append((self.now, caller, held))
        return True

    def run(self, seconds: float, demands: dict[str, float]) -> None:
        """Let each caller ask at its rate, and serve in order."""
        step = 0.01
        owed = dict.fromkeys(demands, 0.0)
        for _ in range(round(seconds / step)):
            self.now += step
            for caller, per_second in demands.items():
                owed[caller] += per_second * step
                while owed[caller] >= 1:
                    owed[caller] -= 1
                    self.ask(caller)
            self._done += self.rate * step
            while self._done >= 1 and self.queue:
                self._done -= 1
                asked_at, caller, held = self.queue.popleft()
                held.close()
                self.waits.setdefault(caller, []).append(self.now - asked_at)
            self._done = min(self._done, 1.0)


def test_work_enters_as_a_whole_or_not_at_all() -> None:
    server = Server(rate=1, most=10)
    assert server.ask("a", searches=8)
    assert not server.ask("a", searches=3)
    assert server.ask("a", searches=2)
    assert server.refused == {"a": 1}


def test_each_unit_has_its_limit() -> None:
    server = Server(rate=1)
    assert server.ask("a", characters=9_000)  # counts as three quarters: 7,500
    assert server.ask("a", characters=2_500)
    assert not server.ask("a", characters=1)
    assert server.ask("a", characters=0)


def test_a_request_larger_than_a_limit_is_admitted_alone_and_leaves_room_for_small_ones() -> None:
    server = Server(rate=1)
    assert server.ask("a", characters=1_000_000)
    assert not server.ask("a", characters=1_000_000)
    assert server.ask("a", characters=2_000)


def test_work_is_released_once_and_also_when_it_fails() -> None:
    admission = Admission({"calls": 1}, lambda wait_s: ResourceExhausted("OVERLOADED", "full"))
    with admission.admit({"calls": 1}, "a") as admitted:
        assert isinstance(admitted, Admitted)
        admitted.release()
        with (
            admission.admit({"calls": 1}, "a"),
            pytest.raises(ResourceExhausted),
            admission.admit({"calls": 1}, "a"),
        ):
            pass
    assert admission.used() == 0
    with pytest.raises(KeyError), admission.admit({"calls": 1}, "a"):
        raise KeyError
    assert admission.used() == 0


def test_under_overload_work_waits_no_longer_than_it_should() -> None:
    server = Server(rate=100, max_wait_s=1.0)
    server.run(20, {"heavy": 300})
    assert max(server.waits["heavy"][1000:]) <= 1.1
    # And no less than the server can do is done.
    assert len(server.waits["heavy"]) >= 0.98 * 20 * 100
    assert server.admission.most() == pytest.approx(70, rel=0.05)


def test_after_the_overload_service_is_normal_again_within_two_seconds() -> None:
    server = Server(rate=100, max_wait_s=1.0)
    server.run(20, {"heavy": 300})
    server.run(2, {"ordinary": 50})
    server.waits.clear()
    server.refused.clear()
    server.run(2, {"ordinary": 50})
    assert max(server.waits["ordinary"]) < 0.05
    assert not server.refused
    assert server.admission.most() == 256


def test_a_burst_is_admitted_if_no_backlog_came_before() -> None:
    server = Server(rate=100, max_wait_s=1.0)
    server.run(5, {"ordinary": 20})
    assert all(server.ask("burst") for _ in range(180))


def test_a_slow_server_still_admits_enough_for_its_batches() -> None:
    server = Server(rate=2, max_wait_s=1.0)
    server.run(30, {"heavy": 6})
    assert server.admission.most() == 32


def test_as_many_as_are_no_backlog_are_admitted_whoever_else_asked() -> None:
    """A client of 32 callers is no flood, however slow the server."""
    server = Server(rate=20, max_wait_s=1.0)
    assert server.ask("other")
    for _ in range(30):
        server.run(1, {})
        while len(server.queue) < 32:
            assert server.ask("one client")


def test_bulk_work_may_wait() -> None:
    server = Server(rate=10)
    server.run(60, {"bulk": 30})
    assert max(server.waits["bulk"]) > 20
    assert server.admission.most() == 256


@pytest.mark.parametrize("heavy", [1, 8, 64])
def test_a_light_caller_is_always_admitted_beside_heavy_ones(heavy: int) -> None:
    """Three times the capacity, from one caller or from many."""
    server = Server(rate=50, max_wait_s=1.0)
    demands = {f"heavy {number}": 150 / heavy for number in range(heavy)}
    server.run(2, demands)
    server.run(60, {**demands, "light": 1})
    assert "light" not in server.refused
    assert max(server.waits["light"]) <= 1.3
    assert sum(map(len, server.waits.values())) >= 0.95 * 50 * 62


def test_a_light_caller_is_admitted_beside_one_of_large_requests() -> None:
    server = Server(rate=20, max_wait_s=1.0)
    for second in range(40):
        while server.ask("heavy", searches=64):
            pass
        server.run(1, {"light": 1} if second > 10 else {})
    assert "light" not in server.refused


def test_two_calls_are_no_backlog_however_large() -> None:
    server = Server(rate=20, max_wait_s=1.0)
    for _ in range(20):
        while len(server.queue) < 2:
            assert server.ask("one client", searches=64)
        server.run(1, {})


@pytest.mark.parametrize("rate", [10, 43, 50, 61, 75, 300])
def test_callers_of_equal_demand_share(rate: float) -> None:
    server = Server(rate=rate, max_wait_s=1.0)
    server.run(30, {"a": 1.5 * rate, "b": 1.5 * rate, "c": 0.8 * rate})
    shares = [len(server.waits[caller]) for caller in "abc"]
    assert min(shares) >= 0.5 * max(shares)
    assert sum(shares) >= 0.95 * rate * 30


def test_the_wait_is_computed_from_the_measured_rate() -> None:
    now = 0.0
    rate = ServiceRate(lambda: now)
    assert rate.seconds_for(1) == 1.0  # unknown
    for now in (0.5, 1.0, 1.5, 2.0, 2.5):  # noqa: B007 - the clock reads it
        rate.note_backlog()
        rate.record(5)
    assert rate.seconds_for(25) == pytest.approx(2.0)  # 25 in 2 s
    assert rate.seconds_for(1_000_000) == 5.0
    assert rate.seconds_for(0) == 0.05
    now = 100.0  # the rest does not count
    rate.note_backlog()
    assert rate.per_second() is None


def test_demand_is_forgotten() -> None:
    now = 0.0
    demand = Demand(lambda: now)
    demand.add("heavy", 100)
    demand.add("light", 1)
    assert demand.is_light("light")
    assert not demand.is_light("heavy")
    now = 6.0
    demand.add("light", 1)
    assert demand.is_light("light")
    now = 12.0
    demand.add("light", 1)
    assert not demand.is_light("light")  # nobody else asks now
    now = 100.0
    demand.add("other", 1)
    assert not demand.is_light("other")


def test_metrics_show_what_is_admitted_and_the_limit() -> None:
    metrics = ServerMetrics("gateway", CollectorRegistry())
    server = Server(rate=1, most=10)
    export(metrics, {"search": server.admission})
    server.ask("a", searches=4)
    read = metrics.registry.get_sample_value
    assert read("sentinel_gateway_admitted", {"kind": "search"}) == 4
    assert read("sentinel_gateway_admission_limit", {"kind": "search"}) == 10
