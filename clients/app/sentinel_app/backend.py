"""Call the gateway from the page: one client, one event loop, and jobs that run on it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from concurrent import futures
from typing import Any, TypeVar

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    Internal,
    RetryPolicy,
    SentinelError,
    Timeouts,
)

T = TypeVar("T")
# A person is waiting: show what is wrong early.
_CONFIG = ClientConfig(
    timeouts=Timeouts(search=15.0, read=8.0, health=3.0), retry=RetryPolicy(max_attempts=3)
)
# Each holds some batches of unpacked images, with their copies in messages.
_MAX_IMPORTS = 2
_log = logging.getLogger(__name__)


class Backend:
    """The asynchronous client on an event loop of its own thread. Thread-safe; one per process.

    Attributes:
        client: The client; its calls run with `call` and `start`.
        imports: Held by each import that runs. The others wait.
    """

    def __init__(self, address: str | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True).start()
        self.client = self.call(self._open(address))
        self.imports = asyncio.Semaphore(_MAX_IMPORTS)

    async def _open(self, address: str | None) -> AsyncSentinelClient:
        return AsyncSentinelClient(address, config=_CONFIG)

    def start(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        """Start a call. Cancelling the future cancels the call in gateway and Milvus, too."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Make a call and wait for its result."""
        return self.start(work).result()


class Job:
    """Work in the background. Creating one starts it; it continues when the page is left.

    Attributes:
        error: Why it failed; None while it runs and if it succeeded.
        seconds: How long it ran.
    """

    def __init__(self, backend: Backend) -> None:
        """Start `_run` on the loop's thread. Subclasses set their own attributes before."""
        self.error: SentinelError | None = None
        self.seconds = 0.0
        self._backend = backend
        self._started = time.perf_counter()
        self._future = backend.start(self._run_and_record())

    @property
    def running(self) -> bool:
        return not self._future.done()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most this long; return whether the job has ended."""
        futures.wait([self._future], seconds)
        return not self.running

    def cancel(self) -> bool:
        """Cancel the job and keep its results; return False if it had ended before."""
        return self._future.cancel()

    async def _run(self) -> None:
        raise NotImplementedError

    async def _run_and_record(self) -> None:
        try:
            await self._run()
        except SentinelError as error:
            self.error = error
        # Nobody awaits the job: an error that is not caught here would look like success.
        except Exception:
            _log.exception("%s failed", type(self).__name__)
            self.error = Internal(
                "INTERNAL", "The server of this page failed. Its log has the details."
            )
        finally:
            self.seconds = time.perf_counter() - self._started
