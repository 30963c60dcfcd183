"""A connection to Milvus that can move to another Milvus while calls go on.

No call fails by a move, and each runs on one Milvus from its beginning to its end. Writes wait
while they are held; reads wait for the moment of the move itself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_store.milvus import errors
from sentinel_store.milvus.connection import Call, MilvusConnection
from sentinel_store.values import Consistency

T = TypeVar("T")


class Milvus(Protocol):
    """What `MilvusConnection` and `MovableConnection` both offer; see the former."""

    @property
    def is_lite(self) -> bool: ...

    async def search(
        self, collection: str, deadline: Deadline, *, consistency: Consistency, **request: Any
    ) -> Any: ...

    async def query(
        self,
        collection: str,
        deadline: Deadline,
        *,
        consistency: Consistency | None = None,
        **request: Any,
    ) -> Any: ...

    async def write(
        self,
        method: Literal["upsert", "delete", "refresh_load"],
        collection: str,
        deadline: Deadline,
        **request: Any,
    ) -> None: ...

    async def run(self, call: Call[T], deadline: Deadline, *, writes: bool = False) -> T: ...

    async def drop(self, collection: str, deadline: Deadline) -> None: ...

    async def write_problem(self) -> SentinelError | None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Written:
    """What was written since a moment.

    Attributes:
        ids: Ids of rows that were stored, by collection.
        deleted_from: Collections from which rows were deleted.
    """

    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    deleted_from: set[str] = field(default_factory=set)

    @property
    def count(self) -> int:
        """Number of rows that were stored."""
        return sum(map(len, self.ids.values()))

    def take(self) -> Written:
        """Return what was noted so far, and begin anew."""
        taken = Written(self.ids, self.deleted_from)
        self.ids, self.deleted_from = defaultdict(set), set()
        return taken


class _Gate:
    """Calls pass while it is open; it closes once those inside have left."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_open, self._is_empty = asyncio.Event(), asyncio.Event()
        self._is_open.set()
        self._is_empty.set()

    @asynccontextmanager
    async def passing(self, deadline: Deadline | None) -> AsyncIterator[None]:
        """Wait until it is open; raise DeadlineExceeded if that takes too long."""
        while not self._is_open.is_set():
            try:
                async with asyncio.timeout(deadline.for_next_hop("milvus") if deadline else None):
                    await self._is_open.wait()
            except TimeoutError as error:
                raise errors.out_of_time() from error
        self._inside += 1
        self._is_empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._is_empty.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Close it for the length of the block, which begins when nobody is inside."""
        self._is_open.clear()
        try:
            await self._is_empty.wait()
            yield
        finally:
            self._is_open.set()


class MovableConnection:
    """Use from one event loop. Its methods are those of `MilvusConnection`."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus
        self._reads, self._writes = _Gate(), _Gate()
        self._written: Written | None = None

    @property
    def is_lite(self) -> bool:
        """Whether Milvus is a file in this process and not a server."""
        return self._milvus.is_lite

    @property
    def current(self) -> MilvusConnection:
        """The connection that calls use now."""
        return self._milvus

    async def search(
        self, collection: str, deadline: Deadline, *, consistency: Consistency, **request: Any
    ) -> Any:
        async with self._reads.passing(deadline):
            return await self._milvus.search(
                collection, deadline, consistency=consistency, **request
            )

    async def query(
        self,
        collection: str,
        deadline: Deadline,
        *,
        consistency: Consistency | None = None,
        **request: Any,
    ) -> Any:
        async with self._reads.passing(deadline):
            return await self._milvus.query(
                collection, deadline, consistency=consistency, **request
            )

    async def write(
        self,
        method: Literal["upsert", "delete", "refresh_load"],
        collection: str,
        deadline: Deadline,
        **request: Any,
    ) -> None:
        async with self._writes.passing(deadline):
            try:
                await self._milvus.write(method, collection, deadline, **request)
            finally:
                # Once it is over: whoever takes the notes reads these rows at once. Also if it
                # failed, for it may have happened.
                if self._written is not None and method == "upsert":
                    self._written.ids[collection].update(row["id"] for row in request["data"])
                if self._written is not None and method == "delete":
                    self._written.deleted_from.add(collection)

    async def run(self, call: Call[T], deadline: Deadline, *, writes: bool = False) -> T:
        async with (self._writes if writes else self._reads).passing(deadline):
            return await self._milvus.run(call, deadline, writes=writes)

    async def drop(self, collection: str, deadline: Deadline) -> None:
        async with self._writes.passing(deadline):
            await self._milvus.drop(collection, deadline)

    async def write_problem(self) -> SentinelError | None:
        async with self._reads.passing(None):
            return await self._milvus.write_problem()

    async def close(self) -> None:
        await self._milvus.close()

    @contextmanager
    def noting_writes(self) -> Iterator[Written]:
        """Note what is written during the block."""
        self._written = Written()
        try:
            yield self._written
        finally:
            self._written = None

    @asynccontextmanager
    async def writes_held(self) -> AsyncIterator[None]:
        """Let no write run during the block; those that come wait for its end."""
        async with self._writes.closed():
            yield

    async def move(self, milvus: MilvusConnection, record: Callable[[], None]) -> MilvusConnection:
        """Use another Milvus from now on; return the one before, which no call uses any more.

        Only within `writes_held`. `record` is called just before, and may refuse by an error.
        """
        async with self._reads.closed():
            # Nothing may come between: a write must go where the next start will look for it.
            record()
            before, self._milvus = self._milvus, milvus
        return before
