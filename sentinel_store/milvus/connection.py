"""The connection to Milvus: opened on first use, never waited for beyond a deadline.

Writes, and all calls of Milvus Lite, block and run in threads; reads of a server do not.


Reads of a Milvus server, without threads: a caller who leaves ends them in Milvus, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pymilvus import AsyncMilvusClient, MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError, Unavailable
from sentinel_store.milvus import errors
from sentinel_store.milvus.lite import LiteGate
from sentinel_store.values import Consistency

_CONNECT_TIMEOUT_S = 10.0
_LOAD_TIMEOUT_S = 600.0
_LITE_WRITE_TIMEOUT_S = 600.0
_LEVELS = {
    Consistency.EVENTUAL: "Eventually",
    Consistency.BOUNDED: "Bounded",
    Consistency.SESSION: "Session",
    Consistency.STRONG: "Strong",
}

T = TypeVar("T")
# A blocking call of pymilvus, given the client and the seconds it may take.
Call = Callable[[MilvusClient, float], T]


class MilvusConnection:
    """Use from one event loop; pymilvus's blocking calls run in threads this object owns.

    Attributes:
        is_lite: Whether Milvus is a file in this process and not a server.
    """

    def __init__(self, uri: str, token: str, threads: int) -> None:
        """Remember where Milvus is; the first call connects.

        Args:
            uri: A path ending in `.db` for Milvus Lite, or http(s)://host:port.
            token: `user:password` or an API key; empty for none.
            threads: Most blocking calls at once.
        """
        self.is_lite = "://" not in uri
        self._uri = str(Path(uri).expanduser()) if self.is_lite else uri
        self._token = token
        self._client: MilvusClient | None = None
        self._server_reads: ServerReads | None = None  # of a server, once connected
        self._connecting: asyncio.Task[None] | None = None
        self._last_failure = ""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="milvus")
        self._lite_gate = LiteGate()
        self._lite_writer = ThreadPoolExecutor(1, thread_name_prefix="milvus-lite-writes")

    async def search(
        self, collection: str, deadline: Deadline, *, consistency: Consistency, **request: Any
    ) -> Any:
        """Call pymilvus's `search`, which has one list of hits for each vector; see `query`."""
        request["consistency_level"] = _LEVELS[consistency]
        return await self._read("search", collection, request, deadline)

    async def query(
        self,
        collection: str,
        deadline: Deadline,
        *,
        consistency: Consistency | None = None,
        **request: Any,
    ) -> Any:
        """Call pymilvus's `query`; load the collection first if it is not loaded.

        It is not after a restart of the server, or after somebody released it. On Lite no write
        runs meanwhile. Raises as `run` does.

        Args:
            collection: Its own name.
            deadline: When the answer must be there.
            consistency: How fresh the rows are; None for queries that cannot choose.
            request: pymilvus's further arguments, except the timeout.
        """
        if consistency is not None:
            request["consistency_level"] = _LEVELS[consistency]
        return await self._read("query", collection, request, deadline)

    async def _read(
        self, method: str, collection: str, request: Mapping[str, Any], deadline: Deadline
    ) -> Any:
        client = await self._connected(deadline)

        def read(client: Any, timeout: float | None) -> Any:
            return getattr(client, method)(collection, timeout=timeout, **request)

        def gated(client: MilvusClient, timeout: float) -> Any:
            try:
                with self._lite_gate.reading(timeout):
                    left = deadline.for_next_hop("milvus")
                    return _loaded(client, collection, read, left, deadline)
            except TimeoutError as error:
                raise errors.out_of_time() from error

        with _our_errors(deadline):
            if self._server_reads is not None:
                return await self._server_reads.run(collection, read, deadline)
            return await self._in_thread(client, gated, deadline)

    async def write(self, collection: str, call: Call[T], deadline: Deadline) -> T:
        """Run a call that changes rows and needs the collection loaded; load it first if need be.

        Raises as `run` does.
        """
        return await self.run(
            lambda client, timeout: _loaded(client, collection, call, timeout, deadline),
            deadline,
            writes=True,
        )

    async def run(self, call: Call[T], deadline: Deadline, *, writes: bool = False) -> T:
        """Run a call; what Milvus raises becomes one of our errors where it has one.

        Args:
            call: What to do.
            deadline: When its answer is of no use any more.
            writes: Whether it changes or flushes rows. On Lite such calls run one at a time, and
                no `read` beside them.

        Raises:
            Unavailable: Milvus does not answer, or its file is in use.
            DeadlineExceeded: It took too long.
            NotFound: The collection was dropped.
        """
        client = await self._connected(deadline)
        with _our_errors(deadline):
            if writes and self.is_lite:
                return await self._run_alone(client, call, deadline)
            return await self._in_thread(client, call, deadline)

    async def _in_thread(self, client: MilvusClient, call: Call[T], deadline: Deadline) -> T:
        def timed() -> T:
            # Asked for in the thread, since the call may have waited for one.
            return call(client, deadline.for_next_hop("milvus"))

        return await asyncio.get_running_loop().run_in_executor(self._executor, timed)

    async def _run_alone(self, client: MilvusClient, call: Call[T], deadline: Deadline) -> T:
        """Run a write on Milvus Lite when every one before it has ended.

        Lite 3.2.2 has no lock around its write-ahead log: two writes at once, or a write and a
        flush, leave rows that it has acknowledged out of it, and a crash loses them.
        """

        def timed() -> T:
            deadline.for_next_hop("milvus")  # or it is not even begun
            # It has to end, whoever still waits for it: the next one must not begin before.
            with self._lite_gate.writing():
                return call(client, _LITE_WRITE_TIMEOUT_S)

        work = asyncio.get_running_loop().run_in_executor(self._lite_writer, timed)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(deadline.for_next_hop("milvus")):
                return await asyncio.shield(work)
        except TimeoutError as error:
            raise errors.out_of_time() from error

    async def _connected(self, deadline: Deadline) -> MilvusClient:
        if self._client is None:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
                # Read, even if everybody who waited for it has left.
                self._connecting.add_done_callback(
                    lambda task: task.cancelled() or task.exception()
                )
            # Shielded: a caller who leaves or runs out of time does not end it for the others.
            waiting = asyncio.shield(self._connecting)
            try:
                async with asyncio.timeout(deadline.for_next_hop("milvus")):
                    await waiting
            except TimeoutError as error:
                # What the last attempt met says more than that this one is not over.
                if self._last_failure:
                    raise Unavailable("STORE_UNAVAILABLE", self._last_failure) from error
                raise errors.unavailable("Milvus is not connected yet") from error
        assert self._client is not None
        return self._client

    async def _connect(self) -> None:
        try:
            client = await asyncio.to_thread(self._open)
            if not self.is_lite:
                self._server_reads = await self._open_reads(client)
            self._client = client
        except (*errors.FOREIGN, OSError) as error:
            failure: SentinelError
            if isinstance(error, OSError):
                failure = errors.unavailable(f"Milvus cannot be opened: {error}")
            else:
                failure = errors.converted(error, Deadline.after(None, default_s=1.0))
            self._last_failure = failure.message
            raise failure from error
        finally:
            self._connecting = None

    def _open(self) -> MilvusClient:
        if not self.is_lite:
            return MilvusClient(self._uri, token=self._token, timeout=_CONNECT_TIMEOUT_S)
        Path(self._uri).parent.mkdir(parents=True, exist_ok=True)
        client = MilvusClient(self._uri)
        try:
            # Now rather than in somebody's first search: Lite loads nothing by itself.
            for name in client.list_collections(timeout=_CONNECT_TIMEOUT_S):
                client.load_collection(name, timeout=_LOAD_TIMEOUT_S)
        except BaseException:
            client.close()
            raise
        return client

    async def _open_reads(self, client: MilvusClient) -> ServerReads:
        try:
            return await ServerReads.open(self._uri, self._token, _CONNECT_TIMEOUT_S)
        except BaseException:
            client.close()
            raise

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        await asyncio.to_thread(self._lite_writer.shutdown)
        if self._server_reads is not None:
            await self._server_reads.close()
        if self._client is not None:
            await asyncio.to_thread(self._client.close)
            self._client = None


@contextmanager
def _our_errors(deadline: Deadline) -> Iterator[None]:
    """Raise what pymilvus raises in the block as one of our errors, where it has one."""
    try:
        yield
    except errors.FOREIGN as error:
        raise errors.converted(error, deadline) from error


def _loaded(
    client: MilvusClient, collection: str, call: Call[T], timeout: float, deadline: Deadline
) -> T:
    """Make a call; load the collection and make it again if it was not loaded."""
    try:
        return call(client, timeout)
    except errors.FOREIGN as error:
        if not errors.is_not_loaded(error):
            raise
    client.load_collection(collection, timeout=deadline.for_next_hop("milvus"))
    return call(client, deadline.for_next_hop("milvus"))


class ServerReads:
    """A connection of its own, used from the event loop it was opened on (docs/adr/0014)."""

    def __init__(self, client: AsyncMilvusClient) -> None:
        self._client = client

    @classmethod
    async def open(cls, uri: str, token: str, timeout_s: float) -> ServerReads:
        """Connect.

        Raises:
            MilvusException, grpc.RpcError: Milvus does not let us in, or does not answer.
        """
        # Not shared: pymilvus keeps shared ones for ever, by the address of an event loop that may
        # be gone by then.
        client = AsyncMilvusClient(uri, token=token, timeout=timeout_s, dedicated=True)
        return cls(await client.__aenter__())

    async def run(
        self, collection: str, call: Callable[[Any, None], Awaitable[T]], deadline: Deadline
    ) -> T:
        """Run `call`; load the collection first if it turns out not to be. Errors are Milvus's.

        Raises:
            DeadlineExceeded: It took too long.
            Unavailable: The connection was closed meanwhile.
        """
        # Our timeout ends it, in Milvus, too. pymilvus's is not minded while it connects again, its
        # error does not say what happened, and on Python 3.11 it makes a task of each call.
        try:
            async with asyncio.timeout(deadline.for_next_hop("milvus")):
                try:
                    return await call(self._client, None)
                except errors.FOREIGN as error:
                    if not errors.is_not_loaded(error):
                        raise
                await self._client.load_collection(collection)
                return await call(self._client, None)
        except TimeoutError as error:
            raise errors.out_of_time() from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody left: gRPC says so of calls whose channel is closed under them.
            raise errors.unavailable("the connection to Milvus was lost") from error

    async def close(self) -> None:
        """Close the connection; what still runs on it fails."""
        await self._client.close()
