"""Admit work or refuse it at once, so that what is admitted is served in time.

A server that takes everything under overload answers nobody: calls wait until their callers have
left. So the work in progress has limits in several units, such as contents and characters, and a
limit in seconds: what would wait too long, at the rate of the last seconds, is refused.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import Gauge

from sentinel_core.calls import current_call
from sentinel_core.errors import ResourceExhausted
from sentinel_core.metrics import ServerMetrics

# Fewer pieces of work are no backlog: batches need some that wait.
_NO_BACKLOG = 32
_FOR_FEW_IN_WORK = 1 / 4
_A_BACKLOG = (1 - _FOR_FEW_IN_WORK) * _NO_BACKLOG
_FEW = 2
_FOR_LIGHT = 1 / 4
_LIGHT = 2 / 3  # of what the average caller asks for
_NEARLY_ALL = 9 / 10
# A request may be larger than a limit. It counts as this part of it, to leave room for small ones.
_OF_ONE = 3 / 4
_RECENT_S = 5.0
_RATE_AFTER_S = 0.5
_BACKLOG_OVER_S = 1.0
_RATE_WINDOW_S = 5.0
# Of the longest wait: the next second may be slower than the last ones.
_AIM = 0.7
_MIN_RETRY_S = 0.05
# Work may end sooner than it seems, and a caller of little needs little room.
_MAX_RETRY_S = 5.0
_UNKNOWN_RETRY_S = 1.0

Clock = Callable[[], float]


class Admission:
    """Limits the work in progress of one kind. Use inside one event loop.

    Callers that flood the server do not shut out the others. Of several callers, one that has its
    equal share in work may use three quarters of a limit, and one with less up to all of it. Light
    callers, which ask for much less than the average one, may exceed the limits by a quarter.

    Args:
        limits: Most of each unit at once. The rate is measured in the first unit.
        refusal: Makes the error that says when to retry, in seconds.
        max_wait_s: Longest time that admitted work should wait; None for work that has time.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        refusal: Callable[[float], ResourceExhausted],
        *,
        max_wait_s: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._limits = dict(limits)
        self._unit = next(iter(limits))
        self._most_of_one = {
            unit: limit if unit == self._unit else int(limit * _OF_ONE)
            for unit, limit in limits.items()
        }
        self._refusal = refusal
        self._max_wait_s = max_wait_s
        self._used = dict.fromkeys(limits, 0)
        self._clock = clock
        self._busy_s, self._busy_until = 0.0, clock()
        self._by_caller: dict[str, int] = {}
        self._calls = 0
        self._light = 0  # of what is used, admitted because its caller is light
        self._rate = ServiceRate(clock)
        self._demand = Demand(clock)

    def admit(self, cost: Mapping[str, int], caller: str | None = None) -> Admitted:
        """Count work as admitted; return a `with` block that ends it, unless it is released before.

        Args:
            cost: How much of each unit it is.
            caller: Who asks; None: the caller of the current call, or its peer if anybody may.

        Raises:
            ResourceExhausted: It is refused.
        """
        cost = {unit: min(cost[unit], most) for unit, most in self._most_of_one.items()}
        caller = _current_caller() if caller is None else caller
        self._demand.add(caller, cost[self._unit])
        self._note_backlog()
        as_light = False
        if not self._may_enter(cost, caller):
            as_light = self._may_enter_as_light(cost, caller)
            if not as_light:
                raise self._refusal(self._rate.seconds_for(max(1, self._used[self._unit] // 2)))
        admitted = Admitted(self, cost, caller, as_light)
        self._count(admitted, 1)
        self._note_backlog()
        return admitted

    def most(self) -> float:
        """Return the most of the first unit that is admitted now."""
        limit = float(self._limits[self._unit])
        rate = self._rate.per_second()
        if self._max_wait_s is None or rate is None:
            return limit
        return min(limit, max(_NO_BACKLOG, rate * _AIM * self._max_wait_s))

    def used(self) -> float:
        """Return how much of the first unit is admitted now."""
        return self._used[self._unit]

    def busy_seconds(self) -> float:
        """Return the seconds that the first limit was used so far; half of it for 2 s is 1 s."""
        now = self._clock()
        share = self._used[self._unit] / self._limits[self._unit]
        self._busy_s += share * (now - self._busy_until)
        self._busy_until = now
        return self._busy_s

    def _may_enter(self, cost: Mapping[str, int], caller: str) -> bool:
        most, part = self.most(), 1.0
        if self._demand.callers() > 1:
            part -= _FOR_FEW_IN_WORK * min(1.0, self._of_share(caller, most))
        room = part * most
        if self._demand.is_nearly_all(caller):
            room = max(room, _NO_BACKLOG)
        if self._calls >= _FEW and self._used[self._unit] >= room:
            return False
        return self._fits(cost, part)

    def _may_enter_as_light(self, cost: Mapping[str, int], caller: str) -> bool:
        most = self.most()
        return (
            self._demand.is_light(caller)
            and self._of_share(caller, most) < 1
            and self._light < max(_FEW, _FOR_LIGHT * most)
            and self._fits(cost, 1 + _FOR_LIGHT)
        )

    def _of_share(self, caller: str, most: float) -> float:
        """Return what a caller has in work, as a part of an equal share."""
        return self._by_caller.get(caller, 0) / max(_FEW, most / self._demand.callers())

    def _fits(self, cost: Mapping[str, int], part: float) -> bool:
        return all(
            self._used[unit] + amount <= part * self._limits[unit] for unit, amount in cost.items()
        )

    def _note_backlog(self) -> None:
        # As little as a caller with its equal share is refused at.
        if self._used[self._unit] >= min(_A_BACKLOG, self._limits[self._unit]):
            self._rate.note_backlog()

    def _count(self, work: Admitted, sign: int) -> None:
        self.busy_seconds()  # until now, with what was used until now
        for unit, amount in work.cost.items():
            self._used[unit] += sign * amount
        amount = sign * work.cost[self._unit]
        self._calls += sign
        of_caller = self._by_caller.get(work.caller, 0) + amount
        if of_caller:
            self._by_caller[work.caller] = of_caller
        else:
            self._by_caller.pop(work.caller, None)
        if work.as_light:
            self._light += amount

    def _release(self, work: Admitted, served: bool) -> None:
        self._count(work, -1)
        # What failed or was given up says nothing about how fast work is done.
        if served:
            self._rate.record(work.cost[self._unit])


class Admitted:
    """Work that is in progress, and the `with` block that it is done in."""

    __slots__ = ("_admission", "as_light", "caller", "cost")

    def __init__(
        self, admission: Admission, cost: Mapping[str, int], caller: str, as_light: bool
    ) -> None:
        self._admission: Admission | None = admission
        self.cost = cost
        self.caller = caller
        self.as_light = as_light

    def __enter__(self) -> Admitted:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.release(served=error is None)

    def release(self, *, served: bool = True) -> None:
        """Count it as done; do nothing the second time."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._release(self, served)


class ServiceRate:
    """Measures how much work is done per second while there is a backlog.

    It is unknown in the first half second of a backlog, and a second after its end. Other threads,
    such as that of the metrics, may read it.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque()
        self._total = 0  # of `_done`
        self._since = self._seen = -_RATE_WINDOW_S  # when the backlog began, and was last seen

    def note_backlog(self) -> None:
        """Note that there is a backlog now."""
        now = self._clock()
        if now - self._seen > _BACKLOG_OVER_S:
            self._since = now
            self._done.clear()
            self._total = 0
        self._seen = now
        self._forget_old()

    def record(self, amount: int) -> None:
        """Note that this much work was done."""
        self._done.append((self._clock(), amount))
        self._total += amount
        self._forget_old()

    def per_second(self) -> float | None:
        """Return the rate; None if it is unknown."""
        now = self._clock()
        span = min(_RATE_WINDOW_S, now - self._since)
        if span < _RATE_AFTER_S or now - self._seen > _BACKLOG_OVER_S:
            return None
        return self._total / span

    def seconds_for(self, amount: int) -> float:
        """Estimate when this much more work will be done, from 0.05 to 5 seconds."""
        rate = self.per_second()
        if rate is None:
            return _UNKNOWN_RETRY_S
        return min(_MAX_RETRY_S, max(_MIN_RETRY_S, amount / rate)) if rate else _MAX_RETRY_S

    def _forget_old(self) -> None:
        oldest = self._clock() - _RATE_WINDOW_S
        while self._done and self._done[0][0] < oldest:
            self._total -= self._done.popleft()[1]


class Demand:
    """How much each caller asked for in the last five to ten seconds, refused or not."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._now: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._began = clock()
        self._total = 0
        self._in_both = 0

    def add(self, caller: str, amount: int) -> None:
        """Note that a caller asked."""
        if self._clock() - self._began > _RECENT_S:
            stale = self._clock() - self._began > 2 * _RECENT_S
            self._before, self._now = Counter() if stale else self._now, Counter()
            self._began = self._clock()
            self._total, self._in_both = self._before.total(), 0
        if caller not in self._now and caller in self._before:
            self._in_both += 1
        self._now[caller] += amount
        self._total += amount

    def callers(self) -> int:
        """Return how many callers asked."""
        return len(self._now) + len(self._before) - self._in_both

    def is_light(self, caller: str) -> bool:
        """Tell whether a caller asked for much less than the average one."""
        return self._asked(caller) * self.callers() < _LIGHT * self._total

    def is_nearly_all(self, caller: str) -> bool:
        """Tell whether hardly anybody else asked."""
        return self._asked(caller) >= _NEARLY_ALL * self._total

    def _asked(self, caller: str) -> int:
        return self._now[caller] + self._before[caller]


def _current_caller() -> str:
    call = current_call.get()
    return (call.caller.id or call.peer) if call is not None else ""


def export(metrics: ServerMetrics, admissions: Mapping[str, Admission]) -> None:
    """Show what is admitted, and the limit, as metrics by kind of work, and in load reports."""
    metrics.load.watch(admissions.values())
    for name, description, read in (
        ("admitted", "Work in progress, in its main unit.", Admission.used),
        ("admission_limit", "Most of it that is admitted now.", Admission.most),
    ):
        gauge = Gauge(
            f"sentinel_{metrics.process}_{name}", description, ["kind"], registry=metrics.registry
        )
        for kind, admission in admissions.items():
            gauge.labels(kind).set_function(partial(read, admission))
