"""How many contents may be in the worker at once, and when to come back if it is full."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.types import Modality
from sentinel_core.errors import ResourceExhausted

_WINDOW_S = 10.0
_MIN_RETRY_S = 0.05
_MAX_RETRY_S = 30.0
_UNKNOWN_RETRY_S = 1.0


class Admission:
    """Counts contents from receipt to answer; a request is let in as a whole or not at all."""

    def __init__(self, max_items: int, metrics: EmbedderMetrics) -> None:
        self._max_items = max_items
        self._occupied = 0
        self._by_modality = dict.fromkeys(Modality, 0)
        self._rate = ServiceRate()
        for modality in Modality:  # read when they are scraped: costs nothing per request
            metrics.queue_items.labels(modality).set_function(
                partial(self._by_modality.__getitem__, modality)
            )

    @contextmanager
    def admit(self, counts: Mapping[Modality, int]) -> Iterator[None]:
        """Hold a place for every content of a request.

        Raises:
            ResourceExhausted: QUEUE_FULL, with the time until there should be room.
        """
        items = sum(counts.values())
        excess = self._occupied + items - self._max_items
        if excess > 0:
            wait = self._rate.seconds_for(excess)
            raise ResourceExhausted(
                "QUEUE_FULL",
                f"this worker has {self._occupied} of {self._max_items} contents in work; "
                f"retry in {wait:.2f} s or on another worker",
                retry_after_s=wait,
                limit=self._max_items,
            )
        self._occupied += items
        if self._occupied == items:
            self._rate.start()
        self._count(counts, 1)
        try:
            yield
        finally:
            self._occupied -= items
            self._rate.record(items)
            self._count(counts, -1)

    def _count(self, counts: Mapping[Modality, int], sign: int) -> None:
        for modality, count in counts.items():
            self._by_modality[modality] += sign * count


class ServiceRate:
    """How fast places become free, measured over the last seconds of being busy."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._freed: deque[tuple[float, int]] = deque()
        self._busy_since = clock()

    def start(self) -> None:
        """Note that work begins after an idle time, which must not count as slowness."""
        self._busy_since = self._clock()
        self._freed.clear()

    def record(self, items: int) -> None:
        """Note that `items` places became free."""
        now = self._clock()
        self._freed.append((now, items))
        while self._freed[0][0] < now - _WINDOW_S:
            self._freed.popleft()

    def seconds_for(self, items: int) -> float:
        """Return when `items` more places should be free, from 0.05 to 30 seconds."""
        now = self._clock()
        span = min(_WINDOW_S, now - self._busy_since)
        freed = sum(count for when, count in self._freed if when >= now - _WINDOW_S)
        if not freed:
            return min(_MAX_RETRY_S, max(_UNKNOWN_RETRY_S, span))
        return min(_MAX_RETRY_S, max(_MIN_RETRY_S, items * span / freed))
