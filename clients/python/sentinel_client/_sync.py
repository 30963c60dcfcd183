"""The synchronous client: every method of the asynchronous client, run on a loop in a thread.

Signatures, types and docstrings are those of the asynchronous methods. All synchronous clients of
a process share one loop thread, because grpc.aio works badly with several event loops in one
process. The thread runs as long as a client is open.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import ClientConfig

P = ParamSpec("P")
T = TypeVar("T")


class _LoopThread:
    """An event loop in a daemon thread, started by its first user, stopped by its last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def acquire(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            self._users += 1
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="sentinel-client", daemon=True
                )
                self._thread.start()
            return self._loop

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users or self._loop is None or self._thread is None:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            # While the lock is held, so that the next loop starts after this one has ended.
            asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


_loop_thread = _LoopThread()


def _blocking(
    method: Callable[Concatenate[AsyncSentinelClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SentinelClient, P], T]:
    @functools.wraps(method)
    def call(self: SentinelClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._client, *args, **kwargs))

    return call


def _blocking_stream(
    method: Callable[Concatenate[AsyncSentinelClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[SentinelClient, P], Iterator[T]]:
    @functools.wraps(method)
    def call(self: SentinelClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        stream: Any = method(self._client, *args, **kwargs)
        end = object()

        async def next_value() -> Any:
            return await anext(stream, end)

        try:
            while (value := self._run(next_value())) is not end:
                yield value
        finally:
            if not self._closed:
                self._run(stream.aclose())

    return call


class SentinelClient:
    """A client of one gateway address, for code without an event loop.

        with SentinelClient() as client:
            for hit in client.search("a dog on the beach", collection="photos"):
                print(hit.score, hit.fields["path"])

    Thread-safe. Do not use it inside a running event loop, because it would block the loop; use
    `AsyncSentinelClient` there. `with` or `close` closes it.
    """

    def __init__(self, address: str | None = None, *, config: ClientConfig | None = None) -> None:
        """Create a client; the arguments are those of `AsyncSentinelClient`."""
        self._client = AsyncSentinelClient(address, config=config)
        self._closed = False
        self._close_lock = threading.Lock()
        self._loop = _loop_thread.acquire()

    @property
    def address(self) -> str:
        """The address in use."""
        return self._client.address

    def __enter__(self) -> SentinelClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and cancel all calls in flight."""
        with self._close_lock:
            if self._closed:
                return
            self._run(self._client.close())
            self._closed = True
        _loop_thread.release()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            work.close()
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting ends the call
            raise

    search = _blocking(AsyncSentinelClient.search)
    stream_search = _blocking_stream(AsyncSentinelClient.stream_search)
    search_page = _blocking(AsyncSentinelClient.search_page)
    pages = _blocking_stream(AsyncSentinelClient.pages)
    batch_search = _blocking(AsyncSentinelClient.batch_search)
    upsert = _blocking(AsyncSentinelClient.upsert)
    ingest = _blocking_stream(AsyncSentinelClient.ingest)
    get_items = _blocking(AsyncSentinelClient.get_items)
    list_items = _blocking_stream(AsyncSentinelClient.list_items)
    download_image = _blocking(AsyncSentinelClient.download_image)
    delete_items = _blocking(AsyncSentinelClient.delete_items)
    create_collection = _blocking(AsyncSentinelClient.create_collection)
    get_collection = _blocking(AsyncSentinelClient.get_collection)
    get_or_create_collection = _blocking(AsyncSentinelClient.get_or_create_collection)
    list_collections = _blocking(AsyncSentinelClient.list_collections)
    delete_collection = _blocking(AsyncSentinelClient.delete_collection)
    set_alias = _blocking(AsyncSentinelClient.set_alias)
    delete_alias = _blocking(AsyncSentinelClient.delete_alias)
    reindex = _blocking_stream(AsyncSentinelClient.reindex)
    health = _blocking(AsyncSentinelClient.health)
