"""One logical call: its deadline, its id, and whether a failed attempt is followed by another."""

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
    """The attempts of one call. Time and chance are arguments, for tests.

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
        """Return when the next attempt should start.

        Raises:
            SentinelError: `error`, when there is to be no further attempt. One that ran out of
                time names the failure of the attempt before as its cause.
        """
        self._made += 1
        if isinstance(error, DeadlineExceeded):
            raise error from self._last
        if not (self._retry and error.retryable) or self._made >= self._policy.max_attempts:
            raise error
        seconds = self._pause(error)
        left = self.remaining()
        if left is not None and seconds >= left:
            raise error  # says more than "time ran out" would
        self._last = error
        await self._sleep(seconds)

    def _pause(self, error: SentinelError) -> float:
        return pause(self._policy, self._made, error.retry_after, self._chance)


def pause(
    policy: RetryPolicy,
    made: int,
    retry_after: float | None,
    chance: Callable[[], float] = random.random,
) -> float:
    """Return the seconds to wait after `made` failed attempts, 1 or more."""
    backoff = min(policy.max_backoff, policy.initial_backoff * policy.multiplier ** (made - 1))
    if retry_after is not None:
        # The server's pause is the least; the jitter on top keeps its callers from
        # coming back all at once.
        return retry_after + chance() * min(backoff, retry_after)
    return backoff * (0.5 + chance() / 2)
