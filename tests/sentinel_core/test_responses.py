"""No response is larger than its caller receives; every call tells its id and the server's load."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from sentinel.search.v1 import item_service_pb2
from sentinel_core.errors import NotFound
from sentinel_core.settings import MIB
from tests.sentinel_core.serving import GET, UPSERT, Items, serving
from tests.sentinel_core.test_limits_of_calls import DOWNLOAD
from tests.waiting import eventually

MOST = 3_670_016
KEY = "x-max-response-bytes"
NO_LIMIT = [("grpc.max_receive_message_length", -1)]
# In a GetItemsResponse of one missing id.
FRAME = 5


class Sized(Items):
    """Answers with as many bytes as the caller says; a gate holds the answers."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()

    async def GetItems(self, request: Any, context: Any) -> item_service_pb2.GetItemsResponse:
        await self.gate.wait()
        if not request.ids:
            raise NotFound("ITEM_NOT_FOUND", "there is no item; name one")
        return item_service_pb2.GetItemsResponse(missing_ids=["x" * int(request.ids[0])])

    async def DownloadImage(self, request: Any, context: Any) -> Any:
        for size in request.id.split():
            yield item_service_pb2.DownloadImageResponse(data=bytes(int(size)))


def asking_for(size: int) -> bytes:
    return item_service_pb2.GetItemsRequest(ids=[str(size - FRAME)]).SerializeToString()


def reason_and_limit(error: grpc.RpcError) -> tuple[str, str]:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    [first, *_] = status_pb2.Status.FromString(details).details
    assert first.Unpack(info)
    return info.reason, info.metadata["limit"]


async def test_a_response_of_the_largest_size_arrives_at_a_client_with_grpc_s_default_limit() -> (
    None
):
    async with (
        serving(Sized()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert len(await channel.unary_unary(GET)(asking_for(MOST), timeout=20)) == MOST


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("", MOST),
        ("0", MOST),
        ("1000", MOST),
        (str(5 * MIB), 5 * MIB),
        (str(2**63), 8 * MIB),  # the largest message of this server
    ],
)
async def test_a_larger_response_is_refused_with_a_reason(asked: str, allowed: int) -> None:
    metadata = ((KEY, asked),) if asked else ()
    async with (
        serving(Sized(), max_bytes=8 * MIB, memory_bytes=256 * MIB) as (server, memory),
        grpc.aio.insecure_channel(server.address, options=NO_LIMIT) as channel,
    ):
        idle = memory.used
        get = channel.unary_unary(GET)
        answer = await get(asking_for(allowed), timeout=20, metadata=metadata)
        assert len(answer) == allowed
        with pytest.raises(grpc.RpcError) as caught:
            await get(asking_for(allowed + 1), timeout=20, metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_and_limit(caught.value) == ("RESPONSE_TOO_LARGE", str(allowed))
        assert KEY in str(caught.value.details())
        # gRPC's own retry policies do not repeat it.
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
        await eventually(lambda: memory.used == idle)


async def test_a_stream_ends_before_a_message_that_is_too_large() -> None:
    request = item_service_pb2.DownloadImageRequest(id=f"{MIB} {4 * MIB}").SerializeToString()
    async with (
        serving(Sized(), max_bytes=8 * MIB, memory_bytes=256 * MIB) as (server, _),
        grpc.aio.insecure_channel(server.address, options=NO_LIMIT) as channel,
    ):
        call = channel.unary_stream(DOWNLOAD)(request, timeout=20)
        assert len(await call.read()) > MIB
        with pytest.raises(grpc.RpcError) as caught:
            await call.read()
        assert reason_and_limit(caught.value) == ("RESPONSE_TOO_LARGE", str(MOST))
        metadata = ((KEY, str(8 * MIB)),)
        call = channel.unary_stream(DOWNLOAD)(request, timeout=20, metadata=metadata)
        assert [len(message) > MIB async for message in call] == [True, True]


@pytest.mark.parametrize("asked", ["-1", "4M", "1e7", " ", "9" * 30])
async def test_asking_for_no_number_is_refused(asked: str) -> None:
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(GET)(b"", timeout=20, metadata=((KEY, asked),))
        with pytest.raises(grpc.RpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert reason_and_limit(caught.value)[0] == "PARAMETER_OUT_OF_RANGE"


async def test_who_asks_for_more_takes_the_memory_for_it() -> None:
    """Else hundreds of calls would fill their large responses at once."""
    servicer = Sized()
    servicer.gate.clear()
    async with (
        serving(servicer, max_bytes=8 * MIB, memory_bytes=256 * MIB) as (server, memory),
        grpc.aio.insecure_channel(server.address, options=NO_LIMIT) as channel,
    ):
        idle = memory.used
        get = channel.unary_unary(GET)
        call = get(asking_for(100), timeout=20, metadata=((KEY, str(8 * MIB)),))
        await eventually(lambda: memory.used >= idle + 8 * MIB - MOST)
        servicer.gate.set()
        await call
        await eventually(lambda: memory.used == idle)


async def request_id_of(call: Any) -> str:
    with suppress(grpc.RpcError):
        await call
    [found] = [value for key, value in await call.trailing_metadata() if key == "x-request-id"]
    return str(found)


@pytest.mark.parametrize(
    ("path", "request_bytes", "code"),
    [
        (GET, asking_for(10), grpc.StatusCode.OK),
        (GET, b"", grpc.StatusCode.NOT_FOUND),
        (GET, b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (GET, bytes(100_000), grpc.StatusCode.INVALID_ARGUMENT),
        (UPSERT, b"", grpc.StatusCode.OK),
        ("/grpc.health.v1.Health/Check", b"", grpc.StatusCode.OK),
    ],
)
async def test_a_call_sends_its_request_id_back_however_it_ends(
    path: str, request_bytes: bytes, code: grpc.StatusCode
) -> None:
    async with (
        serving(Sized()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.unary_unary(path)(
            request_bytes, timeout=20, metadata=(("x-request-id", "mine 1/2"),)
        )
        assert await request_id_of(call) == "mine 1/2"
        assert await call.code() is code


async def test_streams_and_refused_calls_send_it_back_too() -> None:
    metadata = (("x-request-id", "mine"),)
    async with (
        serving(Sized()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stream = channel.unary_stream(DOWNLOAD)(
            item_service_pb2.DownloadImageRequest(id="5 5").SerializeToString(),
            timeout=20,
            metadata=metadata,
        )
        assert len([message async for message in stream]) == 2
        assert ("x-request-id", "mine") in tuple(await stream.trailing_metadata())
        server._gate.close()  # it drains
        refused = channel.unary_unary(GET)(asking_for(10), timeout=20, metadata=metadata)
        assert await request_id_of(refused) == "mine"
        assert await refused.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_request_id_is_made_up_where_none_can_be_used() -> None:
    async with (
        serving(Sized()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        get = channel.unary_unary(GET)
        made = [await request_id_of(get(asking_for(10), timeout=20)) for _ in range(2)]
        assert all(len(one) == 32 for one in made)
        assert made[0] != made[1]
        long = get(asking_for(10), timeout=20, metadata=(("x-request-id", "x" * 1000),))
        assert await request_id_of(long) == "x" * 128
