"""What callers see of a server that drains."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import grpc

from sentinel.search.v1 import item_service_pb2
from tests import secure
from tests.sentinel_core.serving import GET, UPSERT, Items, serving
from tests.waiting import eventually

ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
PLAIN = [("grpc.service_config", ROUND_ROBIN), ("grpc.enable_retries", 0)]


class Held(Items):
    """Keeps upserts until it is told, and counts the other calls."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.upserts = self.others = 0

    async def UpsertItems(self, request: Any, context: Any) -> item_service_pb2.UpsertItemsResponse:
        self.upserts += 1
        await self.released.wait()
        return item_service_pb2.UpsertItemsResponse()

    async def GetItems(self, request: Any, context: Any) -> item_service_pb2.GetItemsResponse:
        self.others += 1
        return item_service_pb2.GetItemsResponse()


async def test_callers_leave_a_server_that_leaves_at_once_and_its_calls_end_well() -> None:
    one, two, codes = Held(), Held(), Counter[str]()
    async with (
        serving(one, leaves_at_once=True) as (draining, _),
        serving(two) as (other, _),
        secure.aio_channel(f"ipv4:{draining.address},{other.address}", PLAIN) as channel,
        secure.aio_channel(draining.address) as upserting,
    ):

        async def get() -> None:
            try:
                await channel.unary_unary(GET)(b"", timeout=20)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1

        upsert = asyncio.ensure_future(upserting.unary_unary(UPSERT)(b"", timeout=60))
        await eventually(lambda: one.upserts)
        while not (one.others and two.others):
            await get()
        codes.clear()
        stopping = asyncio.create_task(draining.stop())
        for _ in range(200):
            await get()
        # At most the call that met the server before the client had heard.
        assert codes["OK"] >= 199, codes
        assert not stopping.done()
        one.released.set()
        await upsert
        await stopping
