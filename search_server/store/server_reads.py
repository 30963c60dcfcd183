"""Reads of a Milvus server, without threads: a caller who leaves ends them in Milvus, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pymilvus import AsyncMilvusClient

from search_server.store import milvus_errors
from sentinel_core.deadlines import Deadline

T = TypeVar("T")


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
                except milvus_errors.FOREIGN as error:
                    if not milvus_errors.is_not_loaded(error):
                        raise
                await self._client.load_collection(collection)
                return await call(self._client, None)
        except TimeoutError as error:
            raise milvus_errors.out_of_time() from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody left: gRPC says so of calls whose channel is closed under them.
            raise milvus_errors.unavailable("the connection to Milvus was lost") from error

    async def close(self) -> None:
        """Close the connection; what still runs on it fails."""
        await self._client.close()
