"""Connections are found, counted and dropped; what they keep half-sent or unread ends."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import time
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from sentinel.search.v1 import item_service_pb2
from sentinel_core import call_log, connection_guard, connections, interceptors
from sentinel_core.connections import ConnectionFinder, peer_address
from sentinel_core.settings import MIB
from tests.sentinel_core.raw_http2 import RawConnection
from tests.sentinel_core.serving import GET, INGEST, Items, serving
from tests.sentinel_core.test_limits_of_calls import DOWNLOAD, Downloads
from tests.waiting import eventually


class Ingest(Items):
    """Answers each message of a stream."""

    async def IngestItems(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            yield item_service_pb2.IngestItemsResponse()


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.0.0.1:567", "10.0.0.1:567"), ("ipv6:%5B::1%5D:567", "[::1]:567")],
)
def test_grpc_s_names_of_peers(peer: str, address: str) -> None:
    assert peer_address(peer) == address


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_connection_is_found_by_its_peer_and_dropped(host: str) -> None:
    peers = []

    class Peers(Items):
        async def GetItems(self, request: Any, context: Any) -> Any:
            peers.append(peer_address(context.peer()))
            return item_service_pb2.GetItemsResponse()

    async with serving(Peers(), host=host, insecure=True) as (server, _):
        port = int(server.address.rsplit(":", 1)[1])
        finder = ConnectionFinder(port)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.unary_unary(GET)(b"", timeout=20)
            assert [one.peer for one in finder.find()] == peers
            [connection] = finder.find()
            assert connection.received() > 100
            connection.drop()
            await eventually(lambda: not finder.find())
            await channel.unary_unary(GET)(b"", timeout=20, wait_for_ready=True)
            assert finder.find() != [connection]
            connection.drop()  # that is another file now, or none
            await channel.unary_unary(GET)(b"", timeout=20)


async def test_an_answer_that_nobody_reads_is_dropped_with_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_guard, "_INTERVAL_S", 0.05)
    for module in (call_log, interceptors):
        monkeypatch.setattr(module, "ANSWER_GRACE_S", 0.3)
    servicer = Downloads()
    async with serving(servicer, seconds=0.5) as (server, memory):
        idle = memory.used
        async with grpc.aio.insecure_channel(server.address) as channel:
            calls = [channel.unary_stream(DOWNLOAD)(b"") for _ in range(5)]
            await eventually(lambda: servicer.opened == 5 and servicer.open == 0)
            assert memory.used > idle  # gRPC still has the messages
            await eventually(lambda: memory.used == idle)
            del calls


async def test_connections_above_the_limit_are_dropped_newest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_guard, "_INTERVAL_S", 0.05)
    async with (
        serving(max_connections=20) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        await channel.unary_unary(GET)(b"", timeout=20)
        finder = ConnectionFinder(int(server.address.rsplit(":", 1)[1]))
        [honest] = finder.find()
        host, port = server.address.split(":")
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            await eventually(lambda: len(finder.find()) == 20)
            assert honest in finder.find()
            await channel.unary_unary(GET)(b"", timeout=20)


async def test_the_limit_holds_again_after_file_descriptors_ran_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_guard, "_INTERVAL_S", 0.05)
    dup, failed, is_full = os.dup, list[int](), True

    def dup_if_possible(number: int) -> int:
        if is_full:
            failed.append(number)
            raise OSError(errno.EMFILE, "Too many open files")
        return dup(number)

    async with serving(max_connections=1) as (server, _):
        monkeypatch.setattr(connections.os, "dup", dup_if_possible)
        host, port = server.address.split(":")
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            await eventually(lambda: len(failed) >= 5)
            is_full = False
            await eventually(lambda: len(ConnectionFinder(int(port)).find()) == 1)


def half_sent(stack: ExitStack, address: str) -> RawConnection:
    """A stream with one message sent and half of another."""
    connection = stack.enter_context(RawConnection(address))
    connection.open(1, INGEST)
    connection.begin_message(1, 0)
    connection.begin_message(1, MIB)
    connection.send_bytes(1, bytes(MIB // 2))
    return connection


async def test_a_stream_that_stops_in_a_message_ends_and_an_idle_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_guard, "_STREAM_INTERVAL_S", 0.05)
    monkeypatch.setattr(connection_guard, "_STALL_S", 0.5)
    async with (
        serving(Ingest()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        honest = channel.stream_stream(INGEST)(timeout=20)
        for _ in range(20):
            await honest.write(item_service_pb2.IngestItemsRequest().SerializeToString())
            await honest.read()
        with ExitStack() as stack:
            stalled = await asyncio.to_thread(half_sent, stack, server.address)
            assert b"has come in part" in await asyncio.to_thread(stalled.next_end)
        await honest.write(b"")
        assert await honest.read() == b""


@pytest.mark.slow
async def test_streams_that_hold_too_much_half_sent_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 MiB give streams 8 MiB; 20 of them have half a MiB each."""
    monkeypatch.setattr(connection_guard, "_STREAM_INTERVAL_S", 0.05)
    async with serving(Ingest()) as (server, _):
        with ExitStack() as stack:
            connections = await asyncio.gather(
                *(asyncio.to_thread(half_sent, stack, server.address) for _ in range(20))
            )
            ends = [asyncio.to_thread(connection.next_end) for connection in connections]
            done, _ = await asyncio.wait(
                [asyncio.ensure_future(end) for end in ends],
                return_when=asyncio.FIRST_COMPLETED,
                timeout=20,
            )
            assert all(b"more large messages" in end.result() for end in done)
        assert done


@pytest.mark.parametrize("age", [0.5])
async def test_a_connection_ends_at_its_age_and_calls_go_on(age: float) -> None:
    async with (
        serving(Ingest(), max_connection_seconds=age, connection_grace_seconds=20) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stream = channel.stream_stream(INGEST)(timeout=20)
        await stream.write(b"")
        await stream.read()
        finder = ConnectionFinder(int(server.address.rsplit(":", 1)[1]))
        [first] = finder.find()

        while finder.find() == [first]:
            await channel.unary_unary(GET)(b"", timeout=20)
        await stream.write(b"")  # within the grace, the old connection still carries it
        assert await stream.read() == b""


def pings(address: str, count: int, interval_s: float, *, with_call: bool) -> None:
    with RawConnection(address) as connection:
        if with_call:
            connection.open(1, INGEST)
        for _ in range(count):
            connection.ping()
            time.sleep(interval_s)


@pytest.mark.parametrize("with_call", [True, False])
async def test_pings_without_a_pause_end_the_connection(with_call: bool) -> None:
    async with serving(Ingest()) as (server, _):
        with pytest.raises(ConnectionResetError, match="too_many_pings"):
            await asyncio.to_thread(pings, server.address, 100, 0, with_call=with_call)


@pytest.mark.slow  # gRPC forgives two pings that come too soon, so it takes 40 s to see
async def test_pings_every_ten_seconds_are_allowed() -> None:
    """Ten seconds are the least that Go's client allows."""
    async with serving(Ingest()) as (server, _):
        await asyncio.gather(
            *(
                asyncio.to_thread(pings, server.address, 5, 10.0, with_call=with_call)
                for with_call in (True, False)
            )
        )


async def test_the_least_interval_of_pings_is_below_ten_seconds() -> None:
    async with serving() as (server, _):
        options = dict(server.options)
        assert options["grpc.http2.min_ping_interval_without_data_ms"] < 10_000
        assert options["grpc.keepalive_permit_without_calls"] == 1


async def test_the_limit_of_open_files_is_raised_for_the_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, before[1]))
    try:
        async with serving(max_connections=700):
            await eventually(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 700)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
