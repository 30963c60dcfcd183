"""No mix of hostile requests ends a gateway or worker in a container with its manifest's memory.

The gateway runs in a control group of 2 GiB and the worker in one of 8 GiB. The kernel kills what
needs more. Both take their budgets from these limits. Honest searches go on all the while.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
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
from tests import control_group, processes
from tests.control_group import ControlGroup
from tests.embedder_server.hostile_pictures import (
    float_tiff,
    lossless_webp,
    scans_jpeg,
    tile_tiff,
)
from tests.embedder_server.pictures import encode, noise, png_of
from tests.search_server.conftest import connect, error_info, image, text
from tests.search_server.search.test_deep_search import DIMENSIONS, vector_of
from tests.sentinel_core.raw_http2 import RawConnection
from tests.sentinel_core.serving import INGEST, UPSERT

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

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


@dataclass(frozen=True, slots=True)
class Contained:
    """A server and the control group that it runs in."""

    server: processes.Server
    group: ControlGroup

    def assert_lives(self) -> None:
        """Nothing of it has been killed."""
        assert self.group.kills == 0
        assert self.server.process.poll() is None


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Contained, Contained]]:
    """A gateway and a worker, each with the memory of its manifest."""
    with ExitStack() as stack:
        groups = [stack.enter_context(control_group.limited(size)) for size in (2 * GIB, 8 * GIB)]
        worker = stack.enter_context(groups[1].running(tmp_path / "w", "embedder_server"))
        flags = processes.gateway_flags(tmp_path / "g", str(tmp_path / "g/m.db"), worker.address)
        gateway = stack.enter_context(groups[0].running(tmp_path / "g", "search_server", *flags))
        for server, name, size in ((gateway, "gateway", 2), (worker, "embedder", 8)):
            budget = processes.metric(
                server.metrics_address, f"sentinel_{name}_memory_budget_bytes"
            )
            assert budget == int(size * GIB * memory._OF_CONTAINER)
        yield Contained(gateway, groups[0]), Contained(worker, groups[1])


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
    """Search once a second meanwhile; every search must succeed.

    One in twenty may be refused as too much just now, on a machine with little CPU to spare.
    """
    seconds: list[float] = []
    failures: list[str] = []
    refusals = 0

    async def search() -> None:
        nonlocal refusals
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
                    if error_info(error) == ("RESOURCE_EXHAUSTED", "OVERLOADED"):
                        refusals += 1
                    else:
                        failures.append(f"{error.code().name} {error.details()}")
                seconds.append(time.perf_counter() - start)
                await asyncio.sleep(1)

    task = asyncio.create_task(search())
    try:
        yield seconds
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert failures == []
    assert refusals <= len(seconds) / 20


def report(name: str, seconds: list[float], codes: object, *contained: Contained) -> None:
    ordered = sorted(seconds)
    print(
        f"\n{name}: {len(seconds)} honest searches, median {ordered[len(ordered) // 2]:.3f} s, "
        f"slowest {ordered[-1]:.3f} s; answers {codes}; high-water marks "
        + ", ".join(f"{one.group.most / MIB:.0f} MiB" for one in contained)
    )


async def test_a_gateway_stays_within_two_gibibytes(
    servers: tuple[Contained, Contained],
) -> None:
    contained, worker = servers
    gateway = contained.server
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
            report("stalled uploads", seconds, "", contained)
            codes = Counter(
                await asyncio.gather(
                    *(attempt(channels[n % 8], UPSERT, large) for n in range(16)),
                    *(attempt(channels[n % 8], UPSERT, parts) for n in range(8)),
                )
            )
            report("16 upserts and 8 of empties", seconds, codes, contained)
            params = search_service_pb2.SearchParams(collection="photos", query=text("cat"))
            request = search_service_pb2.SearchRequest(params=params, limit=800, chunk_size=1000)
            unread = [
                channels[n % 8].unary_stream(SEARCH)(request.SerializeToString()) for n in range(40)
            ]
            await asyncio.sleep(10)
            report("40 unread searches", seconds, "", contained)
            codes = Counter(
                await asyncio.gather(*(attempt(channels[n % 8], UPSERT, large) for n in range(16)))
            )
            del unread
        for channel in channels:
            await channel.close()
    report("all at once", seconds, codes, contained, worker)
    contained.assert_lives()
    worker.assert_lives()


async def test_a_worker_stays_within_eight_gibibytes(
    servers: tuple[Contained, Contained],
) -> None:
    gateway, worker = servers
    await asyncio.to_thread(connect(gateway.server.address).create, "photos")
    pictures = [
        float_tiff(10_000)[:400_000],  # A2, and cut off
        float_tiff(10_000),
        float_tiff(5000),
        scans_jpeg(8000, 3000),  # A5
        scans_jpeg(8000, 99),
        tile_tiff(20_000),  # A8
        png_of(100_000_000, 1),  # A11
        png_of(9000, 9000),
        lossless_webp(10_000),  # E3
        encode(noise((4000, 3000)), "JPEG"),
    ]

    async def upsert_pictures(channel: grpc.aio.Channel, seed: int) -> Counter[str]:
        chosen, codes = random.Random(seed), Counter[str]()
        for number in range(4):
            request = item_service_pb2.UpsertItemsRequest(collection="photos")
            for place in range(4):
                picture = image(chosen.choice(pictures))
                request.items.add(id=f"{seed} {number} {place}", content=picture)
            codes[await attempt(channel, UPSERT, request.SerializeToString())] += 1
        return codes

    async with (
        honest(gateway.server.address) as seconds,
        grpc.aio.insecure_channel(gateway.server.address, CHANNEL) as channel,
    ):
        found = await asyncio.gather(*(upsert_pictures(channel, seed) for seed in range(16)))
    report("hostile pictures", seconds, sum(found, Counter[str]()), gateway, worker)
    gateway.assert_lives()
    worker.assert_lives()
    assert worker.group.most > GIB  # it was tried
