"""The memory budget of a process: how many bytes its requests may hold at once.

Everything large that a caller can make us hold takes a share first: messages being received,
decoded pixels, responses that nobody has read yet. Work waits for its share, or fails with
MEMORY_EXHAUSTED. Health checks and metrics need no share.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from prometheus_client import Gauge

from sentinel_core.calls import Deadline
from sentinel_core.errors import ResourceExhausted
from sentinel_core.metrics import ServerMetrics

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = 1.0
# Shares above this part of the budget are large. Large ones leave a quarter of the budget to small
# ones, so that a few heavy requests never keep ordinary ones waiting.
_LARGE = 1 / 64
_FOR_LARGE = 3 / 4
# A container is ours: most of its memory is for requests, and the rest for the interpreter, the
# model, caches, and what the allocator has not returned. A machine also runs other programs.
_OF_CONTAINER = 0.6
_OF_MACHINE = 0.25
# After as much has been freed, it is worth milliseconds to return it to the system.
_WORTH_RETURNING = 64 * 1024 * 1024
_RETURN_INTERVAL_S = 0.2
_UNKNOWN_MACHINE = 4 * 1024**3


class MemoryBudget:
    """Divides `limit` bytes among the work in progress. Use inside one event loop.

    Waiting shares are served in the order of their arrival, large and small ones separately.

    Attributes:
        limit: Bytes that all shares together may have.
        largest: Bytes that one share may have.
    """

    def __init__(self, limit: int, metrics: ServerMetrics) -> None:
        self.limit = limit
        self.largest = self._for_large = int(limit * _FOR_LARGE)
        self._used = 0
        self._freed = 0
        self._returning = asyncio.Event()
        self._small: deque[_Waiter] = deque()
        self._large: deque[_Waiter] = deque()
        gauges = {
            "memory_budget_bytes": ("Bytes that requests may hold at once.", lambda: limit),
            "memory_in_use_bytes": ("Bytes of the budget that requests hold.", lambda: self._used),
            "memory_waiting": (
                "Pieces of work that wait for a share of the memory budget.",
                lambda: len(self._small) + len(self._large),
            ),
        }
        for name, (description, value) in gauges.items():
            gauge = Gauge(
                f"sentinel_{metrics.process}_{name}", description, registry=metrics.registry
            )
            gauge.set_function(value)
        logger.info("memory budget", extra={"bytes": limit})

    @property
    def used(self) -> int:
        """Bytes that shares have now."""
        return self._used

    def share(self, size: int, deadline: Deadline) -> Share:
        """Return a share of `size` bytes for an `async with` block, which waits for it.

        The block raises ResourceExhausted (MEMORY_EXHAUSTED) when there is no room until
        `deadline`, or when `size` is above `largest`.
        """
        return Share(self, size, deadline)

    async def take(self, size: int, deadline: Deadline) -> Share:
        """Wait for a share and return it; `release` must follow. Prefer `share`.

        Raises ResourceExhausted as `share` does.
        """
        return await Share(self, size, deadline).__aenter__()

    def note_freed(self, size: int) -> None:
        """Note bytes that have been freed."""
        self._freed += size
        if self._freed > _WORTH_RETURNING:
            self._returning.set()

    async def return_freed(self) -> None:
        """For ever: return freed memory to the system when there is much; else glibc keeps it."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "memory") as thread:
            while True:
                await self._returning.wait()
                self._returning.clear()
                self._freed = 0
                await loop.run_in_executor(thread, _return_freed)
                await asyncio.sleep(_RETURN_INTERVAL_S)

    def set_aside(self, size: int) -> None:
        """Keep `size` bytes for what takes no shares, for good."""
        self._used += size
        self.largest = max(0, self.largest - size)

    async def _take(self, size: int, deadline: Deadline) -> None:
        waiting, room = self._small, self.limit
        if size > self.limit * _LARGE:
            waiting, room = self._large, self._for_large
        if not waiting and self._used + size <= room:
            self._used += size
            return
        if size > self.largest:
            raise ResourceExhausted(
                "MEMORY_EXHAUSTED",
                f"this needs {size} bytes, and one request may hold {self.largest}; send less in "
                "one request",
                limit=self.largest,
            )
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        waiting.append(waiter)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await waiter.granted
        except BaseException as error:
            self._leave(waiting, waiter)
            if not isinstance(error, TimeoutError):
                raise
            raise ResourceExhausted(
                "MEMORY_EXHAUSTED",
                "requests in progress hold all the memory that this process has for them; "
                "retry later, or send less at once",
                retry_after_s=_RETRY_AFTER_S,
            ) from None

    def _leave(self, waiting: deque[_Waiter], waiter: _Waiter) -> None:
        """Forget a waiter whose caller has left; it may have got its bytes a moment ago."""
        if waiter in waiting:
            waiting.remove(waiter)
            self._wake()  # a large one at the head may have held up those behind it
        else:
            self._give_back(waiter.size)

    def _give_back(self, size: int) -> None:
        self._used -= size
        self.note_freed(size)
        self._wake()

    def _wake(self) -> None:
        for waiting, room in ((self._small, self.limit), (self._large, self._for_large)):
            while waiting and self._used + waiting[0].size <= room:
                waiter = waiting.popleft()
                self._used += waiter.size
                if not waiter.granted.done():  # else its task was cancelled, and gives it back
                    waiter.granted.set_result(None)


class Share:
    """Bytes of a budget that one piece of work has inside its `async with` block."""

    __slots__ = ("_budget", "_deadline", "_size")

    def __init__(self, budget: MemoryBudget, size: int, deadline: Deadline) -> None:
        self._budget = budget
        self._deadline = deadline
        self._size = size

    @property
    def size(self) -> int:
        """Its bytes now."""
        return self._size

    async def __aenter__(self) -> Self:
        await self._budget._take(self._size, self._deadline)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give everything back; again does nothing."""
        self.resize(0)

    def resize(self, size: int) -> None:
        """Give back all but `size` bytes; never takes more."""
        if size < self._size:
            released, self._size = self._size - size, size
            self._budget._give_back(released)


@dataclass(slots=True, eq=False)
class _Waiter:
    size: int
    granted: asyncio.Future[None]


def _return_freed() -> None:
    """Return the free parts of all heaps to the system; other libraries than glibc do it anyway."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def default_limit(root: Path = Path("/")) -> int:
    """Return the bytes that requests may hold if no setting says it; `root` has proc and sys."""
    machine, usable = _machine_bytes(), usable_bytes(root)
    return int(usable * _OF_CONTAINER if usable < machine else machine * _OF_MACHINE)


def usable_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may use at most: its container's, or the machine's."""
    machine = _machine_bytes()
    return min(machine, *_container_limits(root), machine)


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows
        return _UNKNOWN_MACHINE


def _container_limits(root: Path) -> Iterator[int]:
    """Yield the memory limits of this process's control groups, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            mount, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A limit of an outer group holds, too. Inside a container the mount is often the group
        # itself, and its name does not exist there.
        group = PurePosixPath(name.lstrip("/"))
        for place in (group, *group.parents):
            try:
                text = (mount / place / file).read_text().strip()
            except OSError:
                continue
            if text.isdigit():  # "max": none
                yield int(text)
