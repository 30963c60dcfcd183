"""Send a slow read a second time, to the next gateway, and take the first answer.

gRPC has a name for it in its service config, `hedgingPolicy`, but gRPC's core, on which Python's
gRPC is built, does not implement it (1.85.1). A hedge takes the turn of the next call. So with
several addresses it goes to the next gateway in turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from sentinel_client._config import Hedging
from sentinel_client._retry_budget import RetryBudget

# How many recent durations of a method tell what is slow, and how many are needed to tell.
_REMEMBERED = 200
_NEEDED = 20
_SLOW = 0.95

# A call of grpc.aio, and the answer to wait for: its response, or the first message of its stream.
Started: TypeAlias = tuple[Any, Awaitable[Any]]


@dataclass(slots=True, eq=False)
class _Attempt:
    call: Any
    answer: asyncio.Future[Any]
    started_at: float


class Hedges:
    """Makes the attempts of reads. All calls of a client share one; use it in one event loop."""

    def __init__(
        self,
        policy: Hedging,
        budget: RetryBudget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._clock = clock
        self._durations: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def delay(self, method: str) -> float | None:
        """Return after how many seconds without an answer a call is slow; None: not known yet."""
        if self._policy.after is not None:
            return self._policy.after
        durations = sorted(self._durations[method])
        if len(durations) < _NEEDED:
            return None
        return durations[int(_SLOW * len(durations))]

    async def first(
        self,
        method: str,
        start: Callable[[], Started],
        *,
        is_final: Callable[[BaseException], bool],
    ) -> tuple[Any, Any]:
        """Start a call, and others while none answers; return the first to answer and its answer.

        All others are cancelled. If an attempt fails while another one runs, wait for that one,
        unless the error `is_final`.
        """
        delay = self.delay(method)
        left = self._policy.max_attempts - 1 if delay is not None else 0
        attempts = [self._started(start)]
        winner: _Attempt | None = None
        try:
            while winner is None:
                running = [one.answer for one in attempts if not one.answer.done()]
                done, _ = await asyncio.wait(
                    running,
                    timeout=delay if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if done:
                    winner = _answered(attempts, is_final)
                elif self._budget.take():
                    left -= 1
                    attempts.append(self._started(start))
                else:
                    left = 0
            # Its own time, or slow gateways would make the delay longer and longer.
            self._durations[method].append(self._clock() - winner.started_at)
            return winner.call, winner.answer.result()
        finally:
            others = [one for one in attempts if one is not winner]
            for one in others:
                one.answer.cancel()
                one.call.cancel()
            await asyncio.gather(*(one.answer for one in others), return_exceptions=True)

    def _started(self, start: Callable[[], Started]) -> _Attempt:
        call, answer = start()
        return _Attempt(call, asyncio.ensure_future(answer), self._clock())


def _answered(
    attempts: list[_Attempt], is_final: Callable[[BaseException], bool]
) -> _Attempt | None:
    """Return an attempt that has answered; None if one may still do so. Raise the last error."""
    errors = []
    for one in attempts:
        if not one.answer.done():
            continue
        if one.answer.cancelled():  # by the end of the channel
            raise asyncio.CancelledError
        error = one.answer.exception()
        if error is None:
            return one
        if is_final(error):
            raise error
        errors.append(error)
    if len(errors) == len(attempts):
        raise errors[-1]
    return None
