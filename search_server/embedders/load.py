"""How busy, how fast and how full one worker is, as this gateway sees it.

The next call goes where contents in flight times the latest times of answer are least. So a slow
worker gets less work, and one that stalls gets none.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sentinel_core.errors import ResourceExhausted
from sentinel_store.items import Kind

# For so long a measured time counts; then a slow worker is as good as any, and is tried again.
_MEMORY_S = 10.0
# Every answer counts at least this much: many may come within a moment.
_LEAST_SHARE = 0.02
_SHORTEST_S = 1e-6
# A worker that has a suspect content alone may end soon: it gets other work if it is much faster.
_TRIAL_FACTOR = 4.0
# If a full worker does not say when to come back.
_DEFAULT_RETRY_S = 0.05
# It estimates that time. Other gateways may need less than it thinks, so it is asked this often.
_MAX_SKIP_S = 1.0


@dataclass(frozen=True, slots=True)
class CallSize:
    """What a call asks of a worker: a number of contents, and what makes calls comparable."""

    items: int
    sort: str

    @classmethod
    def of(cls, items: int, kind: Kind, *, bulk: bool) -> CallSize:
        """Return the size of a call; `kind` is IMAGE if one of its contents is."""
        return cls(items, f"bulk {kind.value}" if bulk else kind.value)


@dataclass(slots=True, eq=False)
class _Flight:
    started_at: float


@dataclass(slots=True)
class _Latency:
    """A moving geometric mean of the time from call to answer, and when it last changed.

    Geometric: one pause of a busy machine must not make a worker look slow for long.
    """

    log_s: float = 0.0
    at: float = 0.0
    answers: int = 0

    def add(self, seconds: float, now: float) -> None:
        """Include the time of one more answer."""
        self.answers += 1
        kept = math.exp((self.at - now) / _MEMORY_S)
        kept = min(kept, 1 - max(_LEAST_SHARE, 1 / self.answers))
        self.log_s = kept * self.log_s + (1 - kept) * math.log(max(seconds, _SHORTEST_S))
        self.at = now

    @property
    def seconds(self) -> float:
        return math.exp(self.log_s)


@dataclass(frozen=True, slots=True)
class _Full:
    """Until a moment, calls of so many items or more are not sent; `retry_at` is for callers."""

    items: int
    until: float
    retry_at: float
    error: ResourceExhausted


class Load:
    """The calls of this gateway to one worker. Use inside one event loop.

    Attributes:
        items: Contents sent and not answered yet.
        trials: Contents that are tried alone now, by kind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.items = 0
        self.trials: Counter[Kind] = Counter()
        self._clock = clock
        # The oldest first.
        self._flights = defaultdict[str, dict[_Flight, None]](dict)
        self._latencies: dict[str, _Latency] = {}
        self._full: dict[str, _Full] = {}

    @contextmanager
    def call(self, size: CallSize) -> Iterator[None]:
        """Count a call until the block ends; measure it unless it raises."""
        self.items += size.items
        flight = _Flight(self._clock())
        flights = self._flights[size.sort]
        flights[flight] = None
        try:
            yield
            now = self._clock()
            self._latencies.setdefault(size.sort, _Latency()).add(now - flight.started_at, now)
            self._full.clear()  # it has room for as many again
        except ResourceExhausted as error:
            wait_s = _DEFAULT_RETRY_S if error.retry_after_s is None else error.retry_after_s
            now = self._clock()
            until = now + min(wait_s, _MAX_SKIP_S)
            self._full[size.sort] = _Full(size.items, until, now + wait_s, error)
            raise
        finally:
            self.items -= size.items
            del flights[flight]

    @contextmanager
    def trial(self, kind: Kind) -> Iterator[None]:
        """Count a content that is tried alone until the block ends."""
        self.trials[kind] += 1
        try:
            yield
        finally:
            self.trials[kind] -= 1
            if not self.trials[kind]:
                del self.trials[kind]

    def latency_s(self, size: CallSize) -> float | None:
        """Return the usual time of answer to such calls; None if none was answered yet."""
        latency = self._latencies.get(size.sort)
        return latency.seconds if latency else None

    def cost(self, size: CallSize, best_s: float) -> float:
        """Return what to compare between workers: the least should answer first.

        `best_s` is the latency of the fastest worker. What this one has not answered for longer
        than usual counts, too.
        """
        now = self._clock()
        seconds = best_s
        latency = self._latencies.get(size.sort)
        if latency is not None and latency.seconds > best_s:
            seconds = max(seconds, latency.seconds * math.exp((latency.at - now) / _MEMORY_S))
        oldest = next(iter(self._flights[size.sort]), None)
        if oldest is not None:
            seconds = max(seconds, now - oldest.started_at)
        factor = _TRIAL_FACTOR if self.trials else 1.0
        return seconds * (self.items + size.items) * factor

    def refusal(self, size: CallSize) -> ResourceExhausted | None:
        """Return the worker's last answer to such a call, if it was full and still should be."""
        full = self._full.get(size.sort)
        if full is None or size.items < full.items:
            return None
        now = self._clock()
        if full.until <= now:
            del self._full[size.sort]
            return None
        refusal = full.error.at(None)
        refusal.retry_after_s = max(full.retry_at - now, _DEFAULT_RETRY_S)
        return refusal

    @property
    def is_full(self) -> bool:
        """Whether it has refused a call and is not asked again yet."""
        now = self._clock()
        return any(full.until > now for full in list(self._full.values()))
