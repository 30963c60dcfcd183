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
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import numpy as np
from pymilvus import AsyncMilvusClient, MilvusClient

from benchmarks.load import agents
from benchmarks.load.embed_generator import MAX_CALLERS, MAX_RATE, MAX_REQUESTS, MAX_SECONDS
from benchmarks.load.flood import Flood, searched
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
        self._new = 0

    def prepare(self, *, texts: list[str], vectors: list[list[float]]) -> dict[str, Any]:
        """Set the queries: texts, and the vector of each."""
        self._texts, self._vectors = texts, vectors
        return {}

    def closed(
        self, *, kind: str, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        """Run N callers until the time is up; return the rate and percentiles of the latency."""
        _require_loopback(address)
        if callers > MAX_CALLERS or seconds > MAX_SECONDS:
            raise ValueError("the load is above the limits of benchmarks/load/embed_generator.py")
        if kind == "new_texts":
            return self._runner.run(self._new_texts(address, collection, callers, seconds))
        if kind == "pymilvus":
            return self._threads(address, collection, callers, seconds)
        run = self._through_gateway if kind == "gateway" else self._asynchronously
        return self._runner.run(run(address, collection, callers, seconds))

    def lone(self, *, address: str, collection: str, searches: int) -> dict[str, Any]:
        """Search for new texts, one after the other."""
        _require_loopback(address)
        return self._runner.run(self._lone(address, collection, searches))

    def open(
        self,
        *,
        address: str,
        collection: str,
        rate: float,
        seconds: float,
        warm_seconds: float,
        connections: int,
    ) -> dict[str, Any]:
        """Search for new texts at a constant rate, beside a light caller; see `flood.Flood`."""
        _require_loopback(address)
        if rate > MAX_RATE or seconds > MAX_SECONDS or rate * seconds > MAX_REQUESTS:
            raise ValueError("the load is above the limits of benchmarks/load/embed_generator.py")
        flood = Flood(address, self._new_requests(collection))
        return self._runner.run(flood.run(rate, seconds, warm_seconds, connections))

    def _new_requests(self, collection: str) -> Iterator[pb.SearchRequest]:
        """Yield searches for texts that no cache knows."""
        while True:
            for text in self._texts:
                self._new += 1
                yield request_of(collection, f"{text} {self._new}")

    async def _new_texts(
        self, address: str, collection: str, callers: int, seconds: float
    ) -> dict[str, Any]:
        requests = self._new_requests(collection)
        async with grpc.aio.insecure_channel(address) as channel:
            stub = pb_grpc.SearchServiceStub(channel)

            async def search(_: int) -> int:
                events = stub.Search(next(requests), timeout=60)
                return sum([len(read_message(event)) async for event in events])

            return await _drive(search, callers, seconds)

    async def _lone(self, address: str, collection: str, searches: int) -> dict[str, Any]:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = pb_grpc.SearchServiceStub(channel)
            requests = self._new_requests(collection)
            found = [await searched(stub, next(requests)) for _ in range(searches)]
        return {"latencies_ms": [one.ms for one in found]}

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


def _require_loopback(address: str) -> None:
    if address.removeprefix("http://").rpartition(":")[0] != "127.0.0.1":
        raise ValueError(f"load goes to loopback addresses only, not to {address}")


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
    agents.serve(
        {"prepare": load.prepare, "closed": load.closed, "lone": load.lone, "open": load.open}
    )


if __name__ == "__main__":
    main()
