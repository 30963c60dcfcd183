"""Counts the calls in flight and, once draining, lets no new one in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from sentinel_core.errors import Unavailable
from sentinel_core.interceptors.base import AroundInterceptor


class DrainInterceptor(AroundInterceptor):
    """The gate that a graceful stop closes."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @asynccontextmanager
    async def around(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[None]:
        if self._draining:
            raise Unavailable("DRAINING", "this process is shutting down; retry on another one")
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def drain(self, timeout_s: float) -> int:
        """Refuse new calls, wait for those in flight; return how many are left over."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._in_flight
