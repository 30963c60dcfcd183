"""What the three groups of calls stand on."""

from __future__ import annotations

from sentinel_client._config import ClientConfig
from sentinel_client._connection import Connection
from sentinel_client._rpcs import RequestT, ResponseT, Rpc


class Calls:
    """A connection and the configuration it is used with."""

    _config: ClientConfig
    _connection: Connection

    async def _read(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, seconds: float | None
    ) -> ResponseT:
        limit = self._config.timeouts.read if seconds is None else seconds
        return await self._connection.unary(rpc, request, limit)

    async def _write(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, seconds: float | None
    ) -> ResponseT:
        limit = self._config.timeouts.write if seconds is None else seconds
        return await self._connection.unary(rpc, request, limit)
