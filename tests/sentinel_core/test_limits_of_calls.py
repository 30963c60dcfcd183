"""Every call ends in its time, with a reason, whoever does not read or does not answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from sentinel.search.v1 import item_service_pb2
from sentinel_core import interceptors
from sentinel_core.memory import MemoryBudget
from sentinel_core.settings import MIB
from tests.search_server.conftest import error_info
from tests.sentinel_core.serving import GET, Items, serving
from tests.waiting import eventually

DOWNLOAD = "/sentinel.search.v1.ItemService/DownloadImage"


class Downloads(Items):
    """Sends 100 messages of 200 kB, as fast as they are read."""

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0

    async def DownloadImage(self, request: Any, context: Any) -> Any:
        self.open += 1
        self.opened += 1
        try:
            for _ in range(100):
                yield item_service_pb2.DownloadImageResponse(data=bytes(200_000))
        finally:
            self.open -= 1


def lanes_of(memory: MemoryBudget) -> int:
    """What the budget has set aside before any call."""
    return memory.used


async def test_calls_that_nobody_reads_end_and_hold_little() -> None:
    servicer = Downloads()
    async with serving(servicer, seconds=1.0) as (server, memory):
        idle = lanes_of(memory)
        async with grpc.aio.insecure_channel(server.address) as channel:
            calls = [channel.unary_stream(DOWNLOAD)(b"") for _ in range(40)]
            await asyncio.gather(*(call.initial_metadata() for call in calls))
            assert memory.used - idle <= 40 * 2 * 200_100
            # No deadline, nothing read: the server's own limit ends them.
            await eventually(lambda: servicer.opened == 40 and servicer.open == 0)
            await channel.unary_unary(GET)(b"", timeout=20)
        await eventually(lambda: memory.used == idle)


async def test_a_caller_who_reads_at_last_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "_LONGEST_WRITE_S", 0.3)
    servicer = Downloads()
    async with (
        serving(servicer) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.unary_stream(DOWNLOAD)(b"")
        await eventually(lambda: servicer.opened == 1 and servicer.open == 0)
        with pytest.raises(grpc.RpcError) as caught:
            async for _ in call:
                pass
    assert error_info(caught.value) == ("DEADLINE_EXCEEDED", "STREAM_STALLED")


async def test_a_short_call_that_nobody_reads_ends_for_lack_of_time() -> None:
    """Its own limit ends it; none for each message is needed."""
    servicer = Downloads()
    async with (
        serving(servicer, seconds=1.0) as (server, memory),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        idle = lanes_of(memory)
        call = channel.unary_stream(DOWNLOAD)(b"")
        await eventually(lambda: servicer.opened == 1 and servicer.open == 0)
        with pytest.raises(grpc.RpcError) as caught:
            async for _ in call:
                pass
        await eventually(lambda: memory.used == idle)
    assert error_info(caught.value) == ("DEADLINE_EXCEEDED", "OUT_OF_TIME")


async def test_a_response_without_memory_for_it_is_refused() -> None:
    class Large(Items):
        async def GetItems(self, request: Any, context: Any) -> Any:
            return item_service_pb2.GetItemsResponse(missing_ids=["x" * 1000] * 3000)

    async with (
        serving(Large(), memory_bytes=8 * MIB) as (server, memory),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        idle = lanes_of(memory)
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(GET)(b"", timeout=20)
        assert error_info(caught.value) == ("RESOURCE_EXHAUSTED", "MEMORY_EXHAUSTED")
        assert memory.used == idle


@pytest.mark.parametrize("deadline", [None, 2.0])
async def test_a_call_that_takes_too_long_says_so(deadline: float | None) -> None:
    """The server answers before gRPC cuts the call off, which would have no reason."""

    class Hanging(Items):
        async def GetItems(self, request: Any, context: Any) -> Any:
            await asyncio.Event().wait()

    async with (
        serving(Hanging(), seconds=0.5 if deadline is None else 20) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        metadata = () if deadline is None else (("grpc-timeout", f"{deadline:.0f}S"),)
        calls = [channel.unary_unary(GET)(b"", metadata=metadata) for _ in range(20)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
    seen = Counter(error_info(end) for end in ends if isinstance(end, grpc.RpcError))
    assert seen == {("DEADLINE_EXCEEDED", "OUT_OF_TIME"): 20}
