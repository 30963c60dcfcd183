"""The synchronous client: every method of the asynchronous client, run on a loop in a thread.

Signatures, types and docstrings are those of the asynchronous methods. All synchronous clients of
a process share one loop thread, because grpc.aio works badly with several event loops in one
process. The thread runs as long as a client that made a call is open.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from sentinel_client import _processes
from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import ClientConfig

P = ParamSpec("P")
T = TypeVar("T")

_EXIT_WAIT_S = 2.0


class _LoopThread:
    """An event loop in a daemon thread, started by its first user, stopped by its last."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the thread: in the child of a fork it does not exist."""
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
                    target=_serve, args=(self._loop,), name="sentinel-client", daemon=True
                )
                self._thread.start()
            return self._loop

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stop()

    def stop_at_exit(self) -> None:
        """Stop it whoever uses it, unless the caller's own code holds it up.

        When the interpreter has gone further, a wait for a daemon thread would never end.
        """
        with self._lock, suppress(TimeoutError):
            self._stop(_EXIT_WAIT_S)

    def is_current(self) -> bool:
        """Return whether the caller runs in this thread, where it must not wait for the loop."""
        return threading.current_thread() is self._thread

    def _stop(self, timeout: float | None = None) -> None:
        if self._loop is None or self._thread is None:
            return
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        # While the lock is held, so that the next loop starts after this one has ended.
        asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(timeout)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue  # raised by the caller's own code in one call, which gets it as its outcome
        return


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


_loop_thread = _LoopThread()
atexit.register(_loop_thread.stop_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_loop_thread.reset)


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
        task: asyncio.Task[Any] | None = None

        async def next_value() -> Any:
            nonlocal task
            task = asyncio.current_task()
            return await anext(stream, end)

        async def close() -> None:
            # Ctrl-C may leave it running, at whatever line it comes; until it ends, a generator
            # cannot be closed.
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
            await stream.aclose()

        try:
            while (value := self._run(next_value())) is not end:
                yield value
        finally:
            # Otherwise the loop closes it when it is collected. The collector may be at work here,
            # in any thread.
            if self._may_wait():
                self._run(close())
            task = None  # likewise

    return call


class SentinelClient:
    """A client of one gateway address, for code without an event loop.

        with SentinelClient() as client:
            for hit in client.search("a dog on the beach", collection="photos"):
                print(hit.score, hit.fields["path"])

    Thread-safe. Do not use it inside a running event loop, because it would block the loop; use
    `AsyncSentinelClient` there. `with` or `close` closes it. It belongs to the process of its
    first call: a process that was forked later gets a RuntimeError that says what to do.
    """

    def __init__(self, address: str | None = None, *, config: ClientConfig | None = None) -> None:
        """Create a client; the arguments are those of `AsyncSentinelClient`."""
        self._client = AsyncSentinelClient(address, config=config)
        self._closed = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # from the first call
        self._in_flight: set[Future[Any]] = set()

    @property
    def address(self) -> str:
        """The address in use."""
        return self._client.address

    def __reduce__(self) -> NoReturn:
        raise _processes.refuse_pickle(self)

    def __enter__(self) -> SentinelClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and cancel all calls in flight; in any thread, any number of times.

        A call of another thread then raises RuntimeError.
        """
        if _processes.forked_while_open():  # nothing of it is ours, not even the lock
            self._closed = True
            return
        self._check_thread()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loop, in_flight = self._loop, list(self._in_flight)
        if loop is not None:
            for future in in_flight:
                future.cancel()
            if not loop.is_closed():  # the exit of the process has stopped it before
                asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
            _processes.closed(self)
            _loop_thread.release()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            future = self._submit(work)
        except RuntimeError:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            if self._closed:
                raise RuntimeError("the client was closed during the call") from None
            raise
        finally:
            future.cancel()  # Ctrl-C while waiting ends the call
            self._in_flight.discard(future)
            del future  # of its error's traceback this frame is a part; see `pause_or_raise`

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start the work on the loop, unless it could never end there."""
        _processes.check_fork()
        self._check_thread()
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._loop is None:
                self._loop = _loop_thread.acquire()
                _processes.opened(self)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._in_flight.add(future)
            return future

    def _check_thread(self) -> None:
        if _loop_thread.is_current():
            raise RuntimeError(
                "a callback or an asynchronous source of items cannot call the synchronous client: "
                "the call would wait for itself; use AsyncSentinelClient there"
            )

    def _may_wait(self) -> bool:
        """Return whether a call would come to an end, also in a finalizer and at exit."""
        return (
            not self._closed
            and not _processes.forked_while_open()
            and not _loop_thread.is_current()
            and not (self._loop is None or self._loop.is_closed())
        )

    search = _blocking(AsyncSentinelClient.search)
    stream_search = _blocking_stream(AsyncSentinelClient.stream_search)
    search_page = _blocking(AsyncSentinelClient.search_page)
    pages = _blocking_stream(AsyncSentinelClient.pages)
    batch_search = _blocking(AsyncSentinelClient.batch_search)
    upsert = _blocking(AsyncSentinelClient.upsert)
    ingest = _blocking_stream(AsyncSentinelClient.ingest)
    get_items = _blocking(AsyncSentinelClient.get_items)
    list_items = _blocking_stream(AsyncSentinelClient.list_items)
    list_page = _blocking(AsyncSentinelClient.list_page)
    download_image = _blocking(AsyncSentinelClient.download_image)
    delete_items = _blocking(AsyncSentinelClient.delete_items)
    create_collection = _blocking(AsyncSentinelClient.create_collection)
    get_collection = _blocking(AsyncSentinelClient.get_collection)
    get_or_create_collection = _blocking(AsyncSentinelClient.get_or_create_collection)
    list_collections = _blocking(AsyncSentinelClient.list_collections)
    preview_deletion = _blocking(AsyncSentinelClient.preview_deletion)
    delete_collection = _blocking(AsyncSentinelClient.delete_collection)
    set_alias = _blocking(AsyncSentinelClient.set_alias)
    delete_alias = _blocking(AsyncSentinelClient.delete_alias)
    reindex = _blocking_stream(AsyncSentinelClient.reindex)
    get_caller = _blocking(AsyncSentinelClient.get_caller)
    embed = _blocking(AsyncSentinelClient.embed)
    embed_many = _blocking_stream(AsyncSentinelClient.embed_many)
    rank = _blocking(AsyncSentinelClient.rank)
    get_model = _blocking(AsyncSentinelClient.get_model)
    health = _blocking(AsyncSentinelClient.health)
