"""Waiting for what must come, however busy the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_PATIENCE_S = 30.0


def until(done: Callable[[], object], within_s: float = _PATIENCE_S) -> None:
    """Wait for `done`, called again and again from this thread."""
    end = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


async def eventually(done: Callable[[], object], within_s: float = _PATIENCE_S) -> None:
    """Wait for `done` while the event loop goes on."""
    end = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.001)
