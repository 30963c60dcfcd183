"""The connection to Milvus: opened on first use; every call ends by its deadline.

Writes, and all calls of Milvus Lite, block and run in threads. Reads of a server run on the event
loop, so that a caller who leaves also cancels the read in Milvus (docs/adr/0014).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

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
    """Use from one event loop; pymilvus's blocking calls run in threads that this object owns.

    `search`, `query` and `write` load the collection and repeat the call if it is not loaded.
    That happens after a restart of the server, or after somebody released the collection.

    Attributes:
        is_lite: Whether Milvus is a file in this process and not a server.
    """

    def __init__(self, uri: str, token: str, threads: int) -> None:
        """Keep the address; the first call connects. Arguments as `MilvusStore`'s."""
        self.is_lite = "://" not in uri
        self._uri = str(Path(uri).expanduser()) if self.is_lite else uri
        self._token = token
        self._client: MilvusClient | None = None
        self._reads: AsyncMilvusClient | None = None  # of a server, once connected
        self._connecting: asyncio.Task[MilvusClient] | None = None
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
        """Call pymilvus's `query`. On Lite no write runs meanwhile. Raises as `run` does.

        `request` has pymilvus's further arguments, except the timeout. `consistency` is None for
        queries that cannot choose.
        """
        if consistency is not None:
            request["consistency_level"] = _LEVELS[consistency]
        return await self._read("query", collection, request, deadline)

    async def _read(
        self, method: str, collection: str, request: Mapping[str, Any], deadline: Deadline
    ) -> Any:
        client = await self._connected(deadline)

        def read_alone(client: MilvusClient, timeout: float) -> Any:
            try:
                with self._lite_gate.reading(timeout):
                    left = deadline.for_next_hop("milvus")
                    return getattr(client, method)(collection, timeout=left, **request)
            except TimeoutError as error:
                raise errors.out_of_time() from error

        with _our_errors(deadline):
            if self._reads is not None:
                return await read_server(self._reads, method, collection, request, deadline)
            return await _loading_if_needed(
                lambda: self._in_thread(client, read_alone, deadline),
                lambda: self._load(client, collection, deadline),
            )

    async def write(
        self,
        method: Literal["upsert", "delete", "refresh_load"],
        collection: str,
        deadline: Deadline,
        **request: Any,
    ) -> None:
        """Call a method of pymilvus that changes rows, with `request` as its arguments.

        Raises as `run` does.
        """

        def write(client: MilvusClient, timeout: float) -> None:
            getattr(client, method)(collection, timeout=timeout, **request)

        client = await self._connected(deadline)
        with _our_errors(deadline):
            await _loading_if_needed(
                lambda: self._run(client, write, deadline, writes=True),
                lambda: self._load(client, collection, deadline),
            )

    async def run(self, call: Call[T], deadline: Deadline, *, writes: bool = False) -> T:
        """Run a call in a thread; convert its errors to ours.

        `writes` is for calls that change or flush rows. On Lite they run one at a time, and no
        read runs beside them.

        Raises:
            Unavailable: Milvus does not answer, or its file is in use.
            DeadlineExceeded: It took too long.
            NotFound: The collection was dropped.
        """
        client = await self._connected(deadline)
        with _our_errors(deadline):
            return await self._run(client, call, deadline, writes=writes)

    async def _run(
        self, client: MilvusClient, call: Call[T], deadline: Deadline, *, writes: bool
    ) -> T:
        if writes and self.is_lite:
            return await self._run_alone(client, call, deadline)
        return await self._in_thread(client, call, deadline)

    async def _in_thread(self, client: MilvusClient, call: Call[T], deadline: Deadline) -> T:
        def timed() -> T:
            # Computed in the thread, since the call may have waited for one.
            return call(client, deadline.for_next_hop("milvus"))

        return await asyncio.get_running_loop().run_in_executor(self._executor, timed)

    async def _run_alone(self, client: MilvusClient, call: Call[T], deadline: Deadline) -> T:
        """Run a write on Milvus Lite after all earlier ones have ended.

        Lite 3.2.2 has no lock around its write-ahead log: two writes at once, or a write and a
        flush, leave out rows that it has acknowledged, and a crash loses them.
        """

        def timed() -> T:
            deadline.for_next_hop("milvus")  # do not start it too late
            # It must end even if nobody waits for it: the next one must not start before.
            with self._lite_gate.writing():
                return call(client, _LITE_WRITE_TIMEOUT_S)

        work = asyncio.get_running_loop().run_in_executor(self._lite_writer, timed)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(deadline.for_next_hop("milvus")):
                return await asyncio.shield(work)
        except TimeoutError as error:
            raise errors.out_of_time() from error

    async def _load(self, client: MilvusClient, collection: str, deadline: Deadline) -> None:
        def load(client: MilvusClient, timeout: float) -> None:
            client.load_collection(collection, timeout=timeout)

        await self._run(client, load, deadline, writes=True)  # on Lite, alone

    async def _connected(self, deadline: Deadline) -> MilvusClient:
        if self._client is not None:
            return self._client
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            # Retrieve its exception, even if all who waited for it have left.
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(deadline.for_next_hop("milvus")):
                # Shielded: a caller who leaves or runs out of time does not end it for the others.
                return await asyncio.shield(self._connecting)
        except TimeoutError as error:
            # The failure of the last attempt says more than that this one is not over.
            if self._last_failure:
                raise Unavailable("STORE_UNAVAILABLE", self._last_failure) from error
            raise errors.unavailable("Milvus is not connected yet") from error

    async def _connect(self) -> MilvusClient:
        try:
            client = await asyncio.to_thread(self._open)
            if not self.is_lite:
                self._reads = await self._open_reads(client)
            self._client = client
        except (*errors.FOREIGN, OSError) as error:
            failure: SentinelError
            if isinstance(error, OSError):
                failure = errors.unavailable(f"Milvus cannot be opened: {error}")
            else:
                failure = errors.converted(error, Deadline.within(1.0))
            self._last_failure = failure.message
            raise failure from error
        finally:
            self._connecting = None
        return client

    def _open(self) -> MilvusClient:
        if not self.is_lite:
            return MilvusClient(self._uri, token=self._token, timeout=_CONNECT_TIMEOUT_S)
        Path(self._uri).parent.mkdir(parents=True, exist_ok=True)
        client = MilvusClient(self._uri)
        try:
            # Now rather than in the first search: Lite loads nothing by itself.
            for name in client.list_collections(timeout=_CONNECT_TIMEOUT_S):
                client.load_collection(name, timeout=_LOAD_TIMEOUT_S)
        except BaseException:
            client.close()
            raise
        return client

    async def _open_reads(self, client: MilvusClient) -> AsyncMilvusClient:
        try:
            # Not shared: pymilvus keeps shared ones for ever, by the address of an event loop that
            # may be gone by then.
            return await AsyncMilvusClient(
                self._uri, token=self._token, timeout=_CONNECT_TIMEOUT_S, dedicated=True
            ).__aenter__()
        except BaseException:
            client.close()
            raise

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        await asyncio.to_thread(self._lite_writer.shutdown)
        if self._reads is not None:
            await self._reads.close()
        if self._client is not None:
            await asyncio.to_thread(self._client.close)
            self._client = None


async def read_server(
    reads: AsyncMilvusClient,
    method: str,
    collection: str,
    request: Mapping[str, Any],
    deadline: Deadline,
) -> Any:
    """Call `search` or `query` of a server on the event loop."""
    # Our timeout cancels the call in Milvus too. pymilvus ignores its own timeout while it
    # reconnects, gives an error that does not say what happened, and on Python 3.11 needs a task
    # per call.
    try:
        async with asyncio.timeout(deadline.for_next_hop("milvus")):
            return await _loading_if_needed(
                lambda: getattr(reads, method)(collection, timeout=None, **request),
                lambda: reads.load_collection(collection),
            )
    except TimeoutError as error:
        raise errors.out_of_time() from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody left: gRPC cancels calls whose channel is closed.
        raise errors.unavailable("the connection to Milvus was lost") from error


async def _loading_if_needed(
    call: Callable[[], Awaitable[T]], load: Callable[[], Awaitable[None]]
) -> T:
    """Await a call; if its collection is not loaded, load it and repeat the call."""
    try:
        return await call()
    except errors.FOREIGN as error:
        if not errors.is_not_loaded(error):
            raise
    await load()
    return await call()


@contextmanager
def _our_errors(deadline: Deadline) -> Iterator[None]:
    """Convert errors of pymilvus in the block to ours."""
    try:
        yield
    except errors.FOREIGN as error:
        raise errors.converted(error, deadline) from error
