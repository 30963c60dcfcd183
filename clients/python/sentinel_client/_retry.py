"""Decide when a failed call is repeated, within its deadline and under one request id.

The retry policy of gRPC's service config cannot replace this. It ignores RetryInfo, gives up
after 5 attempts at most, does not repeat requests above its 256 KiB buffer, and waits until the
deadline instead of raising the last error when no attempt fits into the remaining time.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import Awaitable, Callable

from sentinel_client._config import RetryPolicy
from sentinel_client._errors import DeadlineExceeded, SentinelError


class Attempts:
    """The attempts of one call. Clock, sleep and chance are arguments for tests.

    Attributes:
        request_id: Sent as `x-request-id` with every attempt, so that logs show one call.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        timeout: float,
        retry: bool,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._retry = retry
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._deadline = clock() + timeout
        self._made = 0
        self._last: SentinelError | None = None
        self.request_id = uuid.uuid4().hex

    def remaining(self) -> float | None:
        """Return the seconds left for the next attempt; None for a call without a deadline."""
        if math.isinf(self._deadline):
            return None
        return max(0.0, self._deadline - self._clock())

    async def pause_or_raise(self, error: SentinelError) -> None:
        """Wait until the next attempt should start.

        Raises:
            SentinelError: `error`, if there is no further attempt. DEADLINE_EXCEEDED has the
                failure of the attempt before as its cause.
        """
        self._made += 1
        if isinstance(error, DeadlineExceeded):
            raise error from self._last
        if not (self._retry and error.retryable) or self._made >= self._policy.max_attempts:
            raise error
        seconds = backoff(self._policy, self._made, error.retry_after, self._chance)
        left = self.remaining()
        if left is not None and seconds >= left:
            raise error  # says more than "time ran out"
        self._last = error
        await self._sleep(seconds)


def backoff(
    policy: RetryPolicy,
    made: int,
    retry_after: float | None,
    chance: Callable[[], float] = random.random,
) -> float:
    """Return the seconds to wait after `made` failed attempts, 1 or more."""
    pause = min(policy.max_backoff, policy.initial_backoff * policy.multiplier ** (made - 1))
    if retry_after is not None:
        # Never shorter than the server asks for. The jitter keeps its callers from returning
        # all at once.
        return retry_after + chance() * min(pause, retry_after)
    return pause * (0.5 + chance() / 2)
