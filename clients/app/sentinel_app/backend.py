"""The gateway, from the page's side: one client and one event loop for all who look at the page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from sentinel_client import AsyncSentinelClient, ClientConfig, RetryPolicy, Timeouts

T = TypeVar("T")
# A person waits: better an answer that says what is wrong than a long silence.
_CONFIG = ClientConfig(
    timeouts=Timeouts(search=15.0, read=8.0, health=3.0), retry=RetryPolicy(max_attempts=3)
)


class Backend:
    """Runs the asynchronous client on a loop of its own. Thread-safe; made once per process."""

    def __init__(self, address: str | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        thread.start()
        self.client = self.call(self._open(address))

    async def _open(self, address: str | None) -> AsyncSentinelClient:
        return AsyncSentinelClient(address, config=_CONFIG)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a call; cancelling the future ends it down to Milvus."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Make a call and wait for it."""
        return self.start(work).result()
