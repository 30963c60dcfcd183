"""From process start to exit code: signals, background tasks, and what a dead one means."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)

# A parent that dies sends its death signal once per thread: all of them are one request.
_ONE_REQUEST_S = 1.0


class Lifecycle:
    """Waits for the end of one process and knows why it came.

    Make it inside the running loop. SIGTERM and SIGINT ask for a graceful stop; a background
    task that ends before that is fatal, since nobody else does its work.
    """

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._asked_to_stop: float | None = None
        self.failure: BaseException | None = None

    def install_signal_handlers(self) -> None:
        """Turn SIGTERM and SIGINT into a graceful stop; one that comes later kills at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._asked_to_stop is None:
            logger.info("stopping", extra={"signal": number.name})
            self._asked_to_stop = now
            self._stopping.set()
        elif now - self._asked_to_stop > _ONE_REQUEST_S:
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.raise_signal(number)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` until the process stops; its early end stops the process."""
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
