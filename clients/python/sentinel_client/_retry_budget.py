"""Limit how much load the retries of a client add.

Servers that are overloaded refuse calls. If each refused call came back four times, they would be
five times as overloaded, and would serve less.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 10
_SHARE = 0.2
# A client of few calls may repeat them.
_FREE = 10


class RetryBudget:
    """At most a fifth of the calls of the last ten seconds, or ten, may be repeated.

    All calls of a client share one. Use it in one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # One entry a second: the second, its calls, its retries.
        self._seconds: deque[list[int]] = deque()

    def note_call(self) -> None:
        """Count a call, with its first attempt."""
        self._now()[1] += 1

    def take(self) -> bool:
        """Count a retry and return True; return False if there have been too many."""
        now = self._now()
        calls = sum(one[1] for one in self._seconds)
        retries = sum(one[2] for one in self._seconds)
        if retries + 1 > max(_FREE, _SHARE * calls):
            return False
        now[2] += 1
        return True

    def _now(self) -> list[int]:
        second = int(self._clock())
        while self._seconds and self._seconds[0][0] <= second - _WINDOW_S:
            self._seconds.popleft()
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        return self._seconds[-1]
