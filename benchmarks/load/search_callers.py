"""Searches by many callers at once: through a gateway, or by pymilvus. An agent (see `agents`).

Both send the same queries for the same hits and read all of them. The gateway is asked over one
channel with the generated stubs, Milvus by pymilvus's asynchronous client or by its synchronous one
in threads. Bounded in callers and time, loopback only, as `load` is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from pymilvus import AsyncMilvusClient, MilvusClient

from benchmarks.gateway.searching import milvus_arguments, read_found, read_message, request_of
from benchmarks.load import agents
from benchmarks.load.generator import MAX_CALLERS, MAX_SECONDS
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc

Ask = Callable[[int], Awaitable[int]]


class SearchLoad:
    """Keeps the queries from one command to the next."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._texts: list[str] = []
        self._vectors: list[list[float]] = []

    def prepare(self, *, texts: list[str], vectors: list[list[float]]) -> dict[str, Any]:
        """Take the queries: a text and its vector each."""
        self._texts, self._vectors = texts, vectors
        return {}

    def closed(
        self, *, kind: str, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        """Let N callers search until time is up; return the rate and every latency."""
        host = address.removeprefix("http://").rpartition(":")[0]
        if host != "127.0.0.1" or callers > MAX_CALLERS or seconds > MAX_SECONDS:
            raise ValueError("the load is above the bounds of benchmarks/load.py")
        if kind == "pymilvus":
            return self._threads(address, collection, callers, seconds)
        run = self._through_gateway if kind == "gateway" else self._asynchronously
        return self._runner.run(run(address, collection, callers, seconds))

    async def _through_gateway(
        self, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        requests = [request_of(collection, text) for text in self._texts]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = pb_grpc.SearchServiceStub(channel)

            async def ask(number: int) -> int:
                events = stub.Search(requests[number % len(requests)], timeout=60)
                return sum([len(read_message(event)) async for event in events])

            return await _drive(ask, callers, seconds)

    async def _asynchronously(
        self, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        client = AsyncMilvusClient(address)

        async def ask(number: int) -> int:
            vector = self._vectors[number % len(self._vectors)]
            found = await client.search(collection, [vector], **milvus_arguments())
            return len(read_found(found))

        try:
            return await _drive(ask, callers, seconds)
        finally:
            await client.close()

    def _threads(
        self, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        client = MilvusClient(address)
        latencies: list[float] = []
        start = time.perf_counter()

        def caller(number: int) -> None:
            while (began := time.perf_counter()) < start + seconds:
                vector = self._vectors[number % len(self._vectors)]
                read_found(client.search(collection, [vector], **milvus_arguments()))
                latencies.append(time.perf_counter() - began)
                number += callers

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
        client.close()
        return _summary(latencies, elapsed)


async def _drive(ask: Ask, callers: int, seconds: float) -> dict[str, Any]:
    latencies: list[float] = []
    start = time.perf_counter()

    async def caller(number: int) -> None:
        while (began := time.perf_counter()) < start + seconds:
            if not await ask(number):
                raise RuntimeError("a search without hits")
            latencies.append(time.perf_counter() - began)
            number += callers

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return _summary(latencies, time.perf_counter() - start)


def _summary(latencies: list[float], elapsed: float) -> dict[str, Any]:
    return {
        "rate": len(latencies) / elapsed,
        "seconds": elapsed,
        "p50_ms": float(np.percentile(latencies, 50)) * 1000,
        "p99_ms": float(np.percentile(latencies, 99)) * 1000,
    }


def main() -> None:
    load = SearchLoad()
    agents.serve({"prepare": load.prepare, "closed": load.closed})


if __name__ == "__main__":
    main()
