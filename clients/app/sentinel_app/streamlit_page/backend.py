"""Call the gateway from the page: clients on one event loop, and jobs that run on it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Coroutine
from concurrent import futures
from dataclasses import replace
from typing import Any, TypeVar

from sentinel_client import (
    AsyncSentinelClient,
    Caller,
    ClientConfig,
    Grant,
    Internal,
    RetryPolicy,
    Scope,
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
# Of gateways that are too old to tell: nothing is left out of the page, and they refuse themselves.
_UNKNOWN = Caller("", "", tuple(Grant(scope) for scope in Scope), access_controlled=False)
_log = logging.getLogger(__name__)


class EventLoop:
    """An event loop in a thread of its own. Thread-safe; one per process.

    Attributes:
        imports: Held by each import that runs. The others wait.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True).start()
        self.imports = asyncio.Semaphore(_MAX_IMPORTS)

    def start(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        """Start a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


class Backend:
    """A client with one credential, on the event loop that all share. Thread-safe.

    It closes when nobody uses it any more.

    Attributes:
        client: The client; its calls run with `call` and `start`.
        imports: Held by each import that runs, with whichever credential. The others wait.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        loop: EventLoop | None = None,
    ) -> None:
        """Connect with the first call; without a key, use the one of the environment.

        Raises ValueError if the key would travel to another machine for all to read.
        """
        self._loop = loop or EventLoop()
        self.imports = self._loop.imports
        self.client = self.call(self._open(address, api_key))
        # The loop's thread does not hold up the exit of the process.
        weakref.finalize(self, _close, self._loop, self.client).atexit = False

    async def _open(self, address: str | None, api_key: str | None) -> AsyncSentinelClient:
        return AsyncSentinelClient(address, config=replace(_CONFIG, api_key=api_key))

    def with_key(self, api_key: str) -> Backend:
        """Return a connection of its own to the same gateway, for one visitor's key or token.

        Raises ValueError as the constructor does.
        """
        return Backend(self.client.address, api_key=api_key, loop=self._loop)

    def caller(self, timeout: float) -> Caller:
        """Return what the gateway allows the holder of this credential."""
        try:
            return self.call(self.client.get_caller(timeout=timeout))
        except SentinelError as error:
            if error.code.name != "UNIMPLEMENTED":
                raise
            return _UNKNOWN

    def start(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        """Start a call. Cancelling the future cancels the call in gateway and Milvus, too."""
        return self._loop.start(work)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Make a call and wait for its result."""
        return self.start(work).result()


def _close(loop: EventLoop, client: AsyncSentinelClient) -> None:
    loop.start(client.close())


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
