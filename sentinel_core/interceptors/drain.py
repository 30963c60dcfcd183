"""Counts the calls in flight and, once draining, lets no new one in."""

from __future__ import annotations

import asyncio
from types import TracebackType

from sentinel_core.errors import Unavailable


class DrainGate:
    """The gate that a graceful stop closes; each call goes through it in a `with` block.

    Entering raises Unavailable (DRAINING) once it is closed.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        if self._draining:
            raise Unavailable("DRAINING", "this process is shutting down; retry on another one")
        self._in_flight += 1
        self._idle.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    def close(self) -> None:
        """Refuse new calls from now on."""
        self._draining = True

    async def wait_idle(self, timeout_s: float) -> int:
        """Wait for the calls in flight; return how many are left over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._in_flight
