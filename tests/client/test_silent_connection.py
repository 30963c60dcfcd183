"""A connection that goes silent is given up after the keepalive, and the call is made again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from sentinel_client import AsyncSentinelClient, ClientConfig
from tests import secure
from tests.waiting import eventually
from tests.wire import Wire


async def test_a_call_on_a_silent_connection_is_made_again_on_a_new_one() -> None:
    calls = 0

    async def list_collections(_: bytes, __: Any) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(60)
        return b""

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(list_collections)
    service = "sentinel.search.v1.CollectionService"
    handler = grpc.method_handlers_generic_handler(service, {"ListCollections": method})
    server.add_generic_rpc_handlers((handler,))
    port = secure.listen(server, "127.0.0.1:0")
    await server.start()
    config = ClientConfig(keepalive=1, keepalive_timeout=1)
    async with (
        Wire(f"127.0.0.1:{port}") as wire,
        AsyncSentinelClient(wire.address, config=config) as client,
    ):
        start_s = time.monotonic()
        listing = asyncio.create_task(client.list_collections())
        await eventually(lambda: calls == 1)
        wire.silence()
        assert await listing == []
        assert time.monotonic() - start_s < 20
    await server.stop(None)
