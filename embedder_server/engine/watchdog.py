"""Notices a device that does not come back from a batch, and when it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

# Looks so many times within the limit, but neither in a tight loop nor once a minute.
_LOOKS = 10
_MIN_PERIOD_S = 0.01
_MAX_PERIOD_S = 1.0


class Watchdog:
    """Compares how long the device has been at one batch with a limit.

    Args:
        busy_seconds: Returns how long the device has been at the running batch; 0 when idle.
        limit_s: Seconds after which the device counts as stalled.
        on_change: Awaited with True when it stalls and with False when it moves again.
    """

    def __init__(
        self,
        busy_seconds: Callable[[], float],
        limit_s: float,
        on_change: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._busy_seconds = busy_seconds
        self._limit_s = limit_s
        self._on_change = on_change
        self._period_s = min(_MAX_PERIOD_S, max(_MIN_PERIOD_S, limit_s / _LOOKS))

    async def run(self) -> None:
        """Watch until cancelled."""
        stalled = False
        while True:
            await asyncio.sleep(self._period_s)
            seconds = self._busy_seconds()
            if (seconds > self._limit_s) == stalled:
                continue
            stalled = not stalled
            if stalled:
                logger.error("the device is stalled", extra={"seconds": round(seconds, 1)})
            else:
                logger.warning("the device moves again")
            await self._on_change(stalled)
