"""The connection to Milvus: opened on first use; every call ends by its deadline.

Writes, and all calls of Milvus Lite, block and run in threads. Reads of a server run on the event
loop, so that a caller who leaves also cancels the read in Milvus (docs/adr/0014).

A failed write to Milvus Lite closes the connection. The next call opens it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pymilvus import AsyncMilvusClient, MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError, Unavailable
from sentinel_core.tls import TlsFiles
from sentinel_store.milvus import errors
from sentinel_store.milvus.lite import LiteGate
from sentinel_store.values import Consistency

if TYPE_CHECKING:
    from sentinel_store.milvus.lite_database import LiteDatabase

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_LITE_WRITE_TIMEOUT_S = 600.0
# Opening Lite reads its logs: not more often than this after it failed.
_LITE_RETRY_S = 1.0
_LEVELS = {
    Consistency.EVENTUAL: "Eventually",
    Consistency.BOUNDED: "Bounded",
    Consistency.SESSION: "Session",
    Consistency.STRONG: "Strong",
}

T = TypeVar("T")
# A blocking call of pymilvus, given the client and the seconds it may take.
Call = Callable[[MilvusClient, float], T]


class TimeLeft(float):
    """The seconds left until a moment, which adding it to the clock always gives.

    pymilvus repeats a failed attempt, and gives each its timeout anew. An attempt could then begin
    just before its call ends, or after its caller has left, and undo a newer write of that item.
    """

    _until = 0.0

    @classmethod
    def of(cls, seconds: float) -> TimeLeft:
        """Return what is left now, in seconds."""
        left = cls(seconds)
        left._until = time.time() + seconds
        return left

    def __radd__(self, _: float) -> float:  # gRPC adds the timeout to the time of the attempt
        return self._until

    def end(self) -> None:
        """Let no further attempt begin."""
        self._until = 0.0


class MilvusConnection:
    """Use from one event loop; pymilvus's blocking calls run in threads that this object owns.

    `search`, `query` and `write` load the collection and repeat the call if it is not loaded.
    That happens after a restart of the server, or after somebody released the collection.

    Attributes:
        is_lite: Whether Milvus is a file in this process and not a server.
    """

    def __init__(
        self,
        uri: str,
        token: str,
        threads: int,
        *,
        tls: TlsFiles | None = None,
        lite_fsync: bool = True,
    ) -> None:
        """Keep the address; the first call connects. Arguments as `MilvusStore`'s."""
        self.is_lite = "://" not in uri
        self._lite = _lite_database(uri, lite_fsync) if self.is_lite else None
        self._address = {"uri": uri, "token": token, **_tls_options(tls or TlsFiles())}
        self._client: MilvusClient | None = None
        self._reads: AsyncMilvusClient | None = None  # of a server, once connected
        self._connecting: asyncio.Task[MilvusClient] | None = None
        self._failure: SentinelError | None = None  # why the last attempt to connect failed
        self._failed_at = -_LITE_RETRY_S
        self._no_room: SentinelError | None = None  # why Lite takes no writes
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
                    self._check_current(client)
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

        `writes` is for calls that change anything. On Lite they run one at a time, no read runs
        beside them, and one that fails closes the connection.

        Raises:
            Unavailable: Milvus does not answer, or its file is in use.
            DeadlineExceeded: It took too long.
            NotFound: The collection was dropped.
        """
        client = await self._connected(deadline)
        with _our_errors(deadline):
            return await self._run(client, call, deadline, writes=writes)

    async def drop(self, collection: str, deadline: Deadline) -> None:
        """Drop a collection and its rows. Raises as `run` does."""

        def drop(client: MilvusClient, timeout: float) -> None:
            with nullcontext() if self._lite is None else self._lite.dropping(collection):
                client.drop_collection(collection, timeout=timeout)

        await self.run(drop, deadline, writes=True)

    async def _run(
        self, client: MilvusClient, call: Call[T], deadline: Deadline, *, writes: bool
    ) -> T:
        if writes and self._lite is not None:
            return await self._run_alone(self._lite, client, call, deadline)
        return await self._in_thread(client, call, deadline)

    async def _in_thread(self, client: MilvusClient, call: Call[T], deadline: Deadline) -> T:
        left = TimeLeft.of(deadline.for_next_hop("milvus"))

        def timed() -> T:
            deadline.for_next_hop("milvus")  # it may have waited for a thread
            try:
                return call(client, left)
            except Exception:
                self._check_current(client)  # a closed client raises all kinds of errors
                raise

        work = asyncio.get_running_loop().run_in_executor(self._executor, timed)
        try:
            # pymilvus takes longer than its timeout while it reconnects. Nobody waits for that.
            async with asyncio.timeout(deadline.remaining()):
                return await work
        except TimeoutError as error:
            raise errors.out_of_time() from error
        finally:
            left.end()

    async def _run_alone(
        self, lite: LiteDatabase, client: MilvusClient, call: Call[T], deadline: Deadline
    ) -> T:
        """Run a write on Milvus Lite after all earlier ones have ended.

        Lite 3.2.2 has no lock around its write-ahead log: two writes at once, or a write and a
        flush, leave out rows that it has acknowledged, and a crash loses them.
        """

        def timed() -> T:
            deadline.for_next_hop("milvus")  # do not start it too late
            # It must end even if nobody waits for it: the next one must not start before.
            with self._lite_gate.writing():
                self._check_current(client)
                if self._no_room is not None:
                    lite.check_room()
                    self._no_room = None
                try:
                    done = call(client, _LITE_WRITE_TIMEOUT_S)
                    lite.check_in_place()
                except (*errors.FOREIGN, Unavailable) as error:
                    if errors.leaves_doubt(error):
                        self._abandon(lite, errors.converted(error, Deadline.within(1.0)))
                    raise
                return done

        work = asyncio.get_running_loop().run_in_executor(self._lite_writer, timed)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(deadline.for_next_hop("milvus")):
                return await asyncio.shield(work)
        except TimeoutError as error:
            raise errors.out_of_time() from error

    def _abandon(self, lite: LiteDatabase, why: SentinelError) -> None:
        """Close Lite after a failed write, so that the next call opens it from its logs."""
        logger.error(
            "a write to Milvus Lite failed; it is opened again", extra={"why": why.message}
        )
        self._failure, self._client = why, None
        lite.abandon()
        try:
            lite.check_room()
        except Unavailable as error:
            self._no_room = error

    def _check_current(self, client: MilvusClient) -> None:
        if self._client is not client:
            raise errors.unavailable("Milvus Lite is opened again after a failed write")

    async def _load(self, client: MilvusClient, collection: str, deadline: Deadline) -> None:
        def load(client: MilvusClient, timeout: float) -> None:
            client.load_collection(collection, timeout=timeout)

        await self._run(client, load, deadline, writes=True)  # on Lite, alone

    async def _connected(self, deadline: Deadline) -> MilvusClient:
        if self._client is not None:
            return self._client
        if self._connecting is None:
            failed_s = time.monotonic() - self._failed_at
            if self.is_lite and self._failure is not None and failed_s < _LITE_RETRY_S:
                raise self._failure.at(None)
            self._connecting = asyncio.create_task(self._connect())
            # Retrieve its exception, even if all who waited for it have left.
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(deadline.for_next_hop("milvus")):
                # Shielded: a caller who leaves or runs out of time does not end it for the others.
                return await asyncio.shield(self._connecting)
        except TimeoutError as error:
            # The failure of the last attempt says more than that this one is not over.
            if self._failure is not None:
                raise Unavailable("STORE_UNAVAILABLE", self._failure.message) from error
            raise errors.unavailable("Milvus is not connected yet") from error

    async def _connect(self) -> MilvusClient:
        try:
            if self._lite is None:
                client = await asyncio.to_thread(self._open_server)
                self._reads = await self._open_reads(client)
            else:
                client = await asyncio.get_running_loop().run_in_executor(
                    self._lite_writer, self._open_lite, self._lite
                )
            self._client, self._failure = client, None
        except (*errors.FOREIGN, SentinelError) as error:
            self._failure = errors.converted(error, Deadline.within(1.0))
            self._failed_at = time.monotonic()
            raise self._failure from error
        finally:
            self._connecting = None
        return client

    def _open_server(self) -> MilvusClient:
        return MilvusClient(**self._address, timeout=_CONNECT_TIMEOUT_S)

    def _open_lite(self, lite: LiteDatabase) -> MilvusClient:
        with self._lite_gate.writing():
            return lite.open()

    async def _open_reads(self, client: MilvusClient) -> AsyncMilvusClient:
        try:
            # Not shared: pymilvus keeps shared ones for ever, by the address of an event loop that
            # may be gone by then.
            return await AsyncMilvusClient(
                **self._address, timeout=_CONNECT_TIMEOUT_S, dedicated=True
            ).__aenter__()
        except BaseException:
            client.close()
            raise

    async def write_problem(self) -> SentinelError | None:
        """Return why Milvus Lite takes no writes although it answers reads; None if it does.

        Raises Unavailable if its folder was removed while it is open.
        """
        if self._lite is None or self._client is None:
            return None
        await asyncio.to_thread(self._lite.check_in_place)
        if self._no_room is not None:
            try:
                await asyncio.to_thread(self._lite.check_room)
            except Unavailable as error:
                return error
            self._no_room = None
        return None

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        await asyncio.to_thread(self._lite_writer.shutdown)
        if self._reads is not None:
            await self._reads.close()
        client, self._client = self._client, None
        if client is not None and self._lite is None:
            await asyncio.to_thread(client.close)
        if self._lite is not None:
            await asyncio.to_thread(self._lite.close)


def _tls_options(tls: TlsFiles) -> dict[str, str]:
    """Return pymilvus's names for the files; it takes the CA by another one beside a key."""
    if tls.ca is None:
        return {}
    if tls.cert is None or tls.key is None:
        return {"server_pem_path": str(tls.ca)}
    return {
        "ca_pem_path": str(tls.ca),
        "client_pem_path": str(tls.cert),
        "client_key_path": str(tls.key),
    }


def _lite_database(path: str, fsync: bool) -> LiteDatabase:
    # Only where it is needed: it imports faiss and pyarrow.
    from sentinel_store.milvus.lite_database import LiteDatabase  # noqa: PLC0415

    return LiteDatabase(Path(path).expanduser(), fsync=fsync)


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
