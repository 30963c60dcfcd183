"""The connection to Milvus: opened on first use, called in threads, never beyond a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pymilvus import MilvusClient

from search_server.store import milvus_errors
from sentinel_core.deadlines import Deadline

_CONNECT_TIMEOUT_S = 10.0
_LOAD_TIMEOUT_S = 600.0

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
            threads: Most calls at once.
        """
        self.is_lite = "://" not in uri
        self._uri = str(Path(uri).expanduser()) if self.is_lite else uri
        self._token = token
        self._client: MilvusClient | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="milvus")

    async def run_loaded(self, collection: str, call: Call[T], deadline: Deadline) -> T:
        """Run a call that needs the collection loaded; load it first if it turns out not to be.

        A server that was restarted, or somebody's release, leaves it so.
        """

        def loading(client: MilvusClient, timeout: float) -> T:
            try:
                return call(client, timeout)
            except milvus_errors.FOREIGN as error:
                if not milvus_errors.is_not_loaded(error):
                    raise
            client.load_collection(collection, timeout=deadline.for_next_hop("milvus"))
            return call(client, deadline.for_next_hop("milvus"))

        return await self.run(loading, deadline)

    async def run(self, call: Call[T], deadline: Deadline) -> T:
        """Run a call; what Milvus raises becomes one of our errors where it has one.

        Raises:
            Unavailable: Milvus does not answer, or its file is in use.
            DeadlineExceeded: It took too long.
            NotFound: The collection was dropped.
        """
        client = await self._connected(deadline)

        def timed() -> T:
            # Asked for in the thread, since the call may have waited for one.
            return call(client, deadline.for_next_hop("milvus"))

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, timed)
        except milvus_errors.FOREIGN as error:
            raise milvus_errors.converted(error, deadline) from error

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
                raise milvus_errors.unavailable("Milvus is not connected yet") from error
        assert self._client is not None
        return self._client

    async def _connect(self) -> None:
        try:
            self._client = await asyncio.to_thread(self._open)
        except (*milvus_errors.FOREIGN, OSError) as error:
            if isinstance(error, OSError):
                raise milvus_errors.unavailable(f"Milvus cannot be opened: {error}") from error
            raise milvus_errors.converted(error, Deadline.after(None, default_s=1.0)) from error
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

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        if self._client is not None:
            await asyncio.to_thread(self._client.close)
            self._client = None
