"""No mix of hostile requests takes a gateway or worker over its manifest's memory.

The gateway has the memory budget that it gives itself in its manifest's 2 GiB, and the worker that
of 8 GiB. Honest searches go on all the while.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import (
    item_service_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)
from sentinel_core import memory
from tests import processes
from tests.search_server.conftest import connect, text
from tests.search_server.search.test_deep_search import DIMENSIONS, vector_of
from tests.sentinel_core.raw_http2 import RawConnection
from tests.sentinel_core.serving import INGEST, UPSERT

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

MIB = 1024 * 1024
GIB = 1024 * MIB
EMBED = "/sentinel.embedding.v1.EmbeddingService/Embed"
SEARCH = "/sentinel.search.v1.SearchService/Search"
LARGE = 59 * 1000 * 1000
CHANNEL = [
    ("grpc.max_send_message_length", 64 * MIB),
    ("grpc.max_receive_message_length", 64 * MIB),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[processes.Server, processes.Server]]:
    folder = tmp_path_factory.mktemp("limits")
    with ExitStack() as stack:
        worker = stack.enter_context(
            processes.running(
                folder / "w",
                "embedder_server",
                "--memory-bytes",
                str(int(8 * GIB * memory._OF_CONTAINER)),
            )
        )
        flags = processes.gateway_flags(folder / "g", str(folder / "g/m.db"), worker.address)
        flags += ["--memory-bytes", str(int(2 * GIB * memory._OF_CONTAINER))]
        yield stack.enter_context(processes.running(folder / "g", "search_server", *flags)), worker


def high_water(server: processes.Server) -> int:
    """The most memory that a process has had, in bytes."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def empties() -> bytes:
    """A3: 33 million empty items."""
    return b"\n\x06photos" + b"\x12\0" * (LARGE // 2)


def upsert() -> bytes:
    """A6: an upsert of 59 MB."""
    request = item_service_pb2.UpsertItemsRequest(collection="photos")
    for number in range(4):
        item = request.items.add(id=f"large{number}")
        item.content.image.data = os.urandom(LARGE // 4)
    return request.SerializeToString()


def stalled(stack: ExitStack, address: str, path: str, sent: int) -> None:
    """A6: an upload that stops at two thirds of a message of 60 MB."""
    connection = stack.enter_context(RawConnection(address))
    connection.open(1, path)
    connection.begin_message(1, 60 * MIB)
    try:
        for _ in range(sent // MIB):
            connection.send_bytes(1, bytes(MIB))
    except OSError:
        pass  # refused meanwhile


async def attempt(channel: grpc.aio.Channel, path: str, data: bytes) -> str:
    try:
        await channel.unary_unary(path)(data, timeout=60)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@asynccontextmanager
async def honest(address: str) -> AsyncIterator[list[float]]:
    """Search ten times a second meanwhile; every search must succeed."""
    seconds: list[float] = []
    failures: list[str] = []

    async def search() -> None:
        async with grpc.aio.insecure_channel(address, CHANNEL) as channel:
            stub = search_service_pb2_grpc.SearchServiceStub(channel)
            number = 0
            while True:
                number += 1
                params = search_service_pb2.SearchParams(
                    collection="photos", query=text(f"a cat {number}")
                )
                start = time.perf_counter()
                try:
                    async for _ in stub.Search(
                        search_service_pb2.SearchRequest(params=params, limit=5), timeout=20
                    ):
                        pass
                except grpc.RpcError as error:
                    failures.append(f"{error.code().name} {error.details()}")
                seconds.append(time.perf_counter() - start)
                await asyncio.sleep(0.1)

    task = asyncio.create_task(search())
    try:
        yield seconds
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert failures == []


def report(name: str, seconds: list[float], codes: object, *marks: int) -> None:
    ordered = sorted(seconds)
    print(
        f"\n{name}: {len(seconds)} honest searches, median {ordered[len(ordered) // 2]:.3f} s, "
        f"slowest {ordered[-1]:.3f} s; answers {codes}; high-water marks "
        + ", ".join(f"{mark / MIB:.0f} MiB" for mark in marks)
    )


async def test_a_gateway_stays_within_two_gibibytes(
    servers: tuple[processes.Server, processes.Server],
) -> None:
    gateway, worker = servers
    stubs = connect(gateway.address)
    await asyncio.to_thread(stubs.create, "photos")
    vectors = np.random.default_rng(5).normal(size=(800, DIMENSIONS)).astype(np.float32)
    for start in range(0, 800, 100):
        items = [
            item_service_pb2.Item(
                id=f"long{number}",
                content=content_pb2.Content(text=f"{number} " + "cat " * 12_500),
                vector=vector_of(vectors[number]),
            )
            for number in range(start, start + 100)
        ]
        await asyncio.to_thread(stubs.upsert, "photos", *items)
    before = high_water(gateway)
    large, parts = upsert(), empties()
    async with honest(gateway.address) as seconds:
        channels = [grpc.aio.insecure_channel(gateway.address, CHANNEL) for _ in range(8)]
        with ExitStack() as stack:
            for path in (UPSERT, SEARCH, INGEST):
                await asyncio.gather(
                    *(
                        asyncio.to_thread(stalled, stack, gateway.address, path, 40 * MIB)
                        for _ in range(20)
                    )
                )
            report("stalled uploads", seconds, "", before, high_water(gateway))
            codes = Counter(
                await asyncio.gather(
                    *(attempt(channels[n % 8], UPSERT, large) for n in range(16)),
                    *(attempt(channels[n % 8], UPSERT, parts) for n in range(8)),
                )
            )
            report("16 upserts and 8 of empties", seconds, codes, high_water(gateway))
            params = search_service_pb2.SearchParams(collection="photos", query=text("cat"))
            request = search_service_pb2.SearchRequest(params=params, limit=800, chunk_size=1000)
            unread = [
                channels[n % 8].unary_stream(SEARCH)(request.SerializeToString()) for n in range(40)
            ]
            await asyncio.sleep(10)
            report("40 unread searches", seconds, "", high_water(gateway))
            codes = Counter(
                await asyncio.gather(*(attempt(channels[n % 8], UPSERT, large) for n in range(16)))
            )
            del unread
        for channel in channels:
            await channel.close()
    report("all at once", seconds, codes, high_water(gateway), high_water(worker))
    assert high_water(gateway) < 2 * GIB
    assert high_water(worker) < 8 * GIB
    assert gateway.process.poll() is None
    assert worker.process.poll() is None
