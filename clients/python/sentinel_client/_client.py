"""The asynchronous client. `_sync.py` derives the synchronous client from it."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from google.protobuf.wrappers_pb2 import StringValue

from sentinel.search.v1 import access_service_pb2 as access_pb
from sentinel_client import _rpcs
from sentinel_client._caller import Caller, caller_from_proto
from sentinel_client._collections import CollectionCalls
from sentinel_client._config import ClientConfig, resolve_address
from sentinel_client._connection import Connection
from sentinel_client._embedding import EmbeddingCalls
from sentinel_client._errors import NotFound
from sentinel_client._items import ItemCalls
from sentinel_client._processes import refuse_pickle
from sentinel_client._requests import gather_bounded
from sentinel_client._search import SearchCalls
from sentinel_client._types import Health, HealthStatus


class AsyncSentinelClient(SearchCalls, ItemCalls, CollectionCalls, EmbeddingCalls):
    """A client of one gateway address.

        async with AsyncSentinelClient() as client:
            for hit in await client.search("a dog on the beach", collection="photos"):
                print(hit.score, hit.fields["path"])

    The first call opens the connection, and all calls share it; any number may run at once. The
    client then belongs to that event loop and process. In another loop, or in a process that was
    forked meanwhile, a call raises a RuntimeError that says what to do. `async with` or `close`
    closes it. Every call has a timeout (`ClientConfig.timeouts`, or its own `timeout` in seconds;
    `float("inf")` for none) and raises `SentinelError`.
    """

    def __init__(self, address: str | None = None, *, config: ClientConfig | None = None) -> None:
        """Create a client; the first call connects.

        Args:
            address: `host:port` of a gateway, or any gRPC target (`dns:///…`, `unix:…`). The
                default is SENTINEL_ADDRESS, else 127.0.0.1:50050.
            config: Timeouts, retries, limits and credentials.
        """
        self._config = config or ClientConfig()
        self._connection = Connection(resolve_address(address), self._config)

    @property
    def address(self) -> str:
        """The address in use."""
        return self._connection.address

    def __reduce__(self) -> NoReturn:
        raise refuse_pickle(self)

    async def __aenter__(self) -> AsyncSentinelClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection and cancel all calls in flight."""
        await self._connection.close()

    async def get_caller(self, *, timeout: float | None = None) -> Caller:
        """Return who calls, and what it may do: whose credential is sent, as the gateway sees it.

        Raises:
            PermissionDenied: There is no valid credential.
            SentinelError: With the code UNIMPLEMENTED: the gateway is too old to tell.
        """
        response = await self._connection.unary(
            _rpcs.GET_CALLER, access_pb.GetCallerRequest(), timeout
        )
        return caller_from_proto(response)

    async def health(
        self, *, services: Sequence[str] | None = None, timeout: float | None = None
    ) -> Health:
        """Check whether the gateway and each of its services are serving, without retries.

        Args:
            services: Health names to check instead; a worker or another server has its own.
            timeout: Timeout in seconds.
        """

        async def check(service: str) -> HealthStatus:
            request = StringValue(value=service)
            try:
                answer = await self._connection.unary(_rpcs.HEALTH_CHECK, request, timeout)
            except NotFound:
                return HealthStatus.SERVICE_UNKNOWN
            return HealthStatus(answer.value)

        names = ("", *_rpcs.SERVICES) if services is None else tuple(services)
        statuses = await gather_bounded(check, names, len(names))
        return Health(dict(zip(names, statuses, strict=True)))
