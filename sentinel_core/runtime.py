"""Run a server process: its event loop, its signals and its background tasks."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

# A parent that dies sends its death signal once per thread: all of them are one request.
_ONE_REQUEST_S = 1.0

_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `main` to its end, on uvloop where it is installed and on Python's own loop elsewhere.

    grpc.aio wakes its loop through a socket for every event of a call, which uvloop handles at
    about half of the cost; gRPC's authors measure with it (grpc/grpc#22258).
    """
    # What is imported stays. The collector would look through all of it again and again, and stop
    # every call for about 0.1 s.
    gc.freeze()
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - there is none for Windows
    except ModuleNotFoundError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


class Lifecycle:
    """Waits until the process has to stop, and keeps the reason.

    Create it inside the running loop. SIGTERM and SIGINT request a graceful stop. A background
    task that ends before that is fatal, since nothing else does its work.

    Attributes:
        failure: The error that stopped the process; None after a signal.
    """

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_requested_at: float | None = None
        self.failure: BaseException | None = None

    def install_signal_handlers(self) -> None:
        """Stop gracefully on SIGTERM or SIGINT; a second one, a second later, kills at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._stop_requested_at is None:
            logger.info("stopping", extra={"signal": number.name})
            self._stop_requested_at = now
            self._stopping.set()
        elif now - self._stop_requested_at > _ONE_REQUEST_S:
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.raise_signal(number)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in the background; if it ends early, the process stops."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_task_done)
        self._tasks.append(task)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._stopping.is_set():
            return
        self.fail(task.exception() or RuntimeError(f"{task.get_name()} ended"))

    def fail(self, error: BaseException) -> None:
        """Stop the process with exit code 1 because of `error`."""
        logger.error("fatal", exc_info=error)
        self.failure = error
        self._stopping.set()

    async def wait(self) -> None:
        """Return when the process should stop."""
        await self._stopping.wait()

    async def cancel_tasks(self) -> None:
        """Cancel the background tasks and wait for them."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
