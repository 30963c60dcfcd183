"""Requests are bounded before they are parsed, and who sends slowly keeps nobody waiting."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from sentinel.search.v1 import collection_service_pb2, item_service_pb2
from sentinel_core import receiving
from sentinel_core.calls import Call, take_share
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from sentinel_core.settings import MIB
from sentinel_core.wire import MessagePlan, has_more_parts
from tests.search_server.conftest import error_info
from tests.sentinel_core.raw_http2 import RawConnection
from tests.sentinel_core.serving import GET, INGEST, UPSERT, Items, serving
from tests.waiting import eventually


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


EMPTY_ITEMS = field(1, b"photos") + b"\x12\0" * 200_000
# The same inside of one item, in a list in a map, and as one field again and again.
ONE_ITEM = field(2, b"\x12\0" * 200_000)
LIST = item_service_pb2.UpsertItemsRequest()
LIST.items.add().fields["tags"].list_value.values.extend([""] * 200_000)
AGAIN = b"\x0a\0" * 200_000

UPLOAD = field(1, b"x" * (MIB - 4))
assert len(UPLOAD) == MIB


@pytest.mark.parametrize("data", [EMPTY_ITEMS, ONE_ITEM, LIST.SerializeToString(), AGAIN])
async def test_a_message_of_too_many_parts_is_not_parsed(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(_: bytes) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(item_service_pb2.UpsertItemsRequest, "FromString", parse)
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(UPSERT)(data, timeout=20)
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE")
    assert "200000" not in str(caught.value.details())
    assert "100000 fields and elements" in str(caught.value.details())


def test_fields_of_a_new_collection_count() -> None:
    plan = MessagePlan(collection_service_pb2.CreateCollectionRequest.DESCRIPTOR)
    assert has_more_parts(field(1, b"\x1a\0" * 200_000), plan, 100_000)


def test_a_full_upsert_is_within_the_bounds() -> None:
    request = item_service_pb2.UpsertItemsRequest(collection="photos")
    for number in range(256):
        item = request.items.add(id=f"{number}")
        item.content.text = "a cat" * 100
        for name in range(56):
            item.fields[f"field{name}"].list_value.values.extend(["a"])
    data = request.SerializeToString()
    plan = MessagePlan(request.DESCRIPTOR)
    assert not has_more_parts(data, plan, 100_000)


@pytest.mark.parametrize("packed", [False, True])
def test_vectors_and_images_are_one_part(packed: bool) -> None:
    request = item_service_pb2.UpsertItemsRequest(collection="photos")
    item = request.items.add()
    item.vector.data = bytes(4_000_000)
    item.vector.dimensions = 1_000_000
    data = request.SerializeToString()
    if packed:  # image bytes that look like fields are not walked
        data = data.replace(bytes(1000), b"\x12\0" * 500)
    assert not has_more_parts(data, MessagePlan(request.DESCRIPTOR), 10)


@pytest.mark.parametrize("cut", range(1, 40))
def test_bytes_that_end_too_early_are_left_to_the_parser(cut: int) -> None:
    request = item_service_pb2.UpsertItemsRequest(collection="photos")
    request.items.add().fields["year"].int_value = 1 << 60
    data = request.SerializeToString()[:-cut] if cut < 30 else b"\xff" * cut
    assert not has_more_parts(data, MessagePlan(request.DESCRIPTOR), 100)


async def test_only_methods_that_need_them_take_large_messages() -> None:
    large = item_service_pb2.GetItemsRequest(ids=["x" * 200] * 1000).SerializeToString()
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(GET)(large, timeout=20)
        assert error_info(caught.value) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE")
        await channel.unary_unary(UPSERT)(field(1, b"x" * 200_000), timeout=20)


async def test_a_call_without_a_message_is_refused() -> None:
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        call = channel.stream_unary(UPSERT)(timeout=20)
        await call.done_writing()
        with pytest.raises(grpc.RpcError) as caught:
            await call
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")


def stalled(stack: ExitStack, address: str, count: int) -> RawConnection:
    """A connection with that many uploads, each stopped in the middle of a message."""
    connection = stack.enter_context(RawConnection(address))
    for number in range(count):
        connection.open(2 * number + 1, UPSERT)
        connection.begin_message(2 * number + 1, MIB)
        connection.send_bytes(2 * number + 1, UPLOAD[:1000])
    return connection


async def test_stalled_uploads_keep_no_caller_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes have 2 and 3 places: 20 stalled uploads are more than fit."""
    monkeypatch.setattr(receiving, "_LONGEST_S", 2.0)
    async with serving(memory_bytes=16 * MIB) as (server, memory):
        idle = memory.used
        with ExitStack() as stack:
            connections = await asyncio.gather(
                *(asyncio.to_thread(stalled, stack, server.address, 10) for _ in range(2))
            )
            async with grpc.aio.insecure_channel(server.address) as channel:
                for _ in range(20):
                    await channel.unary_unary(GET)(b"", timeout=2)
            for connection in connections:
                # One has a slow place and ends later; the others are refused.
                ends = [await asyncio.to_thread(connection.next_end) for _ in range(10)]
                assert b"no memory to receive" in ends[0]
                assert b"was not sent within" in ends[9]
        await eventually(lambda: memory.used == idle)


async def test_a_busy_server_does_not_take_its_callers_for_slow() -> None:
    """The event loop is late: the time for a message is over before anybody could look at it."""

    class Context:
        async def read(self) -> bytes:
            time.sleep(2 * receiving._FAST_S)  # noqa: ASYNC251 - on purpose
            await asyncio.sleep(0.01)
            return b"a message"

    memory = MemoryBudget(MIB, ServerMetrics("gateway", CollectorRegistry()))
    receiver = receiving.MessageReceiver(memory, receiving.Inflow(MIB), fast=1, slow=0)
    context: Any = Context()
    assert await receiver.first(context, Call("Get", "id")) == b"a message"


async def test_a_large_upload_takes_the_place_of_one_that_stalls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiving, "_PATIENCE_S", 0.2)
    async with serving(memory_bytes=24 * MIB) as (server, _):
        with ExitStack() as stack:
            for _ in range(4):
                await asyncio.to_thread(stalled, stack, server.address, 1)
            await asyncio.sleep(0.5)  # until all four are in the slow lane, and old
            late = await asyncio.to_thread(stalled, stack, server.address, 1)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(late.send_bytes, 1, UPLOAD[1000:])
            assert b"grpc-status\x010" in await asyncio.to_thread(late.next_end)  # OK


async def test_a_message_needs_memory_for_the_work_on_it() -> None:
    """Six times 1 MB do not fit into what 24 MiB leave for large requests, three times over."""
    hold, waiting = asyncio.Event(), 0

    class Slow(Items):
        async def UpsertItems(self, request: Any, context: Any) -> Any:
            nonlocal waiting
            waiting += 1
            await hold.wait()
            return item_service_pb2.UpsertItemsResponse()

    large = field(1, b"x" * (MIB - 100))
    async with (
        serving(Slow(), memory_bytes=24 * MIB) as (server, memory),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        idle = memory.used
        upsert = channel.unary_unary(UPSERT)
        calls = [asyncio.ensure_future(upsert(large, timeout=20)) for _ in range(3)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(grpc.RpcError) as caught:
            await done.pop()
        assert error_info(caught.value) == ("RESOURCE_EXHAUSTED", "MEMORY_EXHAUSTED")
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
        await channel.unary_unary(GET)(b"", timeout=2)
        assert waiting
        hold.set()
        await asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: memory.used == idle)
        await upsert(large, timeout=20)


async def test_refused_requests_leave_no_bytes_behind() -> None:
    """Not even until the garbage collector comes, which may be long: it is off here."""
    large = field(1, b"x" * (MIB - 100)) + b"\xff"  # malformed at its end
    async with (
        serving() as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        upsert = channel.unary_unary(UPSERT)

        async def refused() -> None:
            with pytest.raises(grpc.RpcError) as caught:
                await upsert(large, timeout=20)
            assert error_info(caught.value) == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")

        await refused()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(10):
                await refused()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert held < 3 * MIB


async def test_a_stream_of_messages_is_checked_like_a_call() -> None:
    class Ingest(Items):
        async def IngestItems(self, requests: Any, context: Any) -> Any:
            async for _ in requests:
                yield item_service_pb2.IngestItemsResponse()

    async with (
        serving(Ingest()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.stream_stream(INGEST)(timeout=20)
        await call.write(b"")
        await call.read()
        await call.write(field(2, EMPTY_ITEMS))
        with pytest.raises(grpc.RpcError) as caught:
            await call.read()
        assert error_info(caught.value) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE")


async def test_a_handler_that_ends_without_giving_memory_back_holds_none() -> None:
    class Ingest(Items):
        async def IngestItems(self, requests: Any, context: Any) -> Any:
            async for _ in requests:
                take_share()
                yield item_service_pb2.IngestItemsResponse()

    async with (
        serving(Ingest()) as (server, memory),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        idle = memory.used
        call = channel.stream_stream(INGEST)(timeout=20)
        for _ in range(3):
            await call.write(field(15, bytes(32 * 1024)))
            await call.read()
        assert memory.used > idle
        call.cancel()
        await eventually(lambda: memory.used == idle)


async def test_a_stream_that_is_idle_for_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "_IDLE_S", 0.2)

    class Ingest(Items):
        async def IngestItems(self, requests: Any, context: Any) -> Any:
            async for _ in requests:
                yield item_service_pb2.IngestItemsResponse()

    async with (
        serving(Ingest()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.stream_stream(INGEST)(timeout=20)
        await call.write(b"")
        await call.read()
        with pytest.raises(grpc.RpcError) as caught:
            await call.read()
    assert error_info(caught.value) == ("DEADLINE_EXCEEDED", "STREAM_STALLED")
