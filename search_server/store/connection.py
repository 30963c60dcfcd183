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
        self._connecting = asyncio.Lock()
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
            ours = milvus_errors.converted(error, deadline)
            raise ours or error from error

    async def _connected(self, deadline: Deadline) -> MilvusClient:
        if self._client is not None:
            return self._client
        async with self._connecting:
            if self._client is None:
                try:
                    self._client = await asyncio.to_thread(
                        self._connect, deadline.for_next_hop("milvus")
                    )
                except (*milvus_errors.FOREIGN, OSError) as error:
                    ours = milvus_errors.converted(error, deadline)
                    raise ours or milvus_errors.unavailable(str(error)) from error
            return self._client

    def _connect(self, timeout: float) -> MilvusClient:
        if not self.is_lite:
            return MilvusClient(self._uri, token=self._token, timeout=timeout)
        Path(self._uri).parent.mkdir(parents=True, exist_ok=True)
        client = MilvusClient(self._uri, timeout=timeout)
        # Now rather than in somebody's first search: Lite loads nothing by itself.
        for name in client.list_collections(timeout=timeout):
            client.load_collection(name, timeout=timeout)
        return client

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        await asyncio.to_thread(self._executor.shutdown)
        if self._client is not None:
            await asyncio.to_thread(self._client.close)
            self._client = None
