"""The load generator for searches, an agent (see `agents`), and the searches that it makes.

Many callers search through a gateway, or directly with pymilvus, for the same hits, and read all of
them. The gateway gets its calls over one channel with the generated stubs; Milvus gets them from
pymilvus's asynchronous client, or from its synchronous client in threads. Callers and time are
limited, and connections go to this machine only.
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

from benchmarks.load import agents
from benchmarks.load.embed_generator import MAX_CALLERS, MAX_SECONDS
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc

TOP = 20
# The gateway chooses this for the top 20 of an AUTOINDEX (sentinel_store/milvus/indexes.py).
_EF = 256
# Id, score and text of each hit.
Found = list[tuple[str, float, str]]
_Search = Callable[[int], Awaitable[int]]


def milvus_arguments() -> dict[str, Any]:
    """Return the arguments of a pymilvus search that finds what the gateway finds."""
    return {
        "limit": TOP,
        "output_fields": ["id", "digest", "image", "text", "fields"],
        "search_params": {"metric_type": "COSINE", "params": {"ef": _EF}},
        "consistency_level": "Session",
        "timeout": 60,
    }


def request_of(collection: str, text: str) -> pb.SearchRequest:
    """Return a search by text."""
    params = pb.SearchParams(collection=collection)
    params.query.content.text = text
    return pb.SearchRequest(params=params, limit=TOP)


def read_found(found: Any) -> Found:
    """Return the hits of one pymilvus search, which decodes them now."""
    return [(hit["id"], hit["distance"], hit["entity"]["text"]) for hit in found[0]]


def read_message(message: pb.SearchResponse) -> Found:
    """Return the hits in one message of the gateway."""
    return [(hit.id, hit.score, hit.text) for hit in message.chunk.hits]


class SearchLoadGenerator:
    """Runs many callers; keeps the queries between commands."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._texts: list[str] = []
        self._vectors: list[list[float]] = []

    def prepare(self, *, texts: list[str], vectors: list[list[float]]) -> dict[str, Any]:
        """Set the queries: texts, and the vector of each."""
        self._texts, self._vectors = texts, vectors
        return {}

    def closed(
        self, *, kind: str, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        """Run N callers until the time is up; return the rate and percentiles of the latency."""
        host = address.removeprefix("http://").rpartition(":")[0]
        if host != "127.0.0.1" or callers > MAX_CALLERS or seconds > MAX_SECONDS:
            raise ValueError("the load is above the limits of benchmarks/load/embed_generator.py")
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

            async def search(number: int) -> int:
                events = stub.Search(requests[number % len(requests)], timeout=60)
                return sum([len(read_message(event)) async for event in events])

            return await _drive(search, callers, seconds)

    async def _asynchronously(
        self, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        client = AsyncMilvusClient(address)

        async def search(number: int) -> int:
            vector = self._vectors[number % len(self._vectors)]
            found = await client.search(collection, [vector], **milvus_arguments())
            return len(read_found(found))

        try:
            return await _drive(search, callers, seconds)
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


async def _drive(search: _Search, callers: int, seconds: float) -> dict[str, Any]:
    latencies: list[float] = []
    start = time.perf_counter()

    async def caller(number: int) -> None:
        while (began := time.perf_counter()) < start + seconds:
            if not await search(number):
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
    load = SearchLoadGenerator()
    agents.serve({"prepare": load.prepare, "closed": load.closed})


if __name__ == "__main__":
    main()
