"""A flood of searches from many connections, beside a light caller."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from benchmarks.load.embed_generator import MAX_IN_FLIGHT
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc

_TIMEOUT_S = 60.0
_LIGHT_INTERVAL_S = 1.0
_AFTERWARDS_S = 6.0
_REFUSED = {"OVERLOADED", "RESOURCE_EXHAUSTED"}  # the second one without a reason


@dataclass(frozen=True)
class Searched:
    """One search: its reason, or OK; its time; and when it was due and done, on `perf_counter`."""

    reason: str
    ms: float
    due: float
    done: float


async def searched(
    stub: pb_grpc.SearchServiceAsyncStub, request: pb.SearchRequest, due: float | None = None
) -> Searched:
    """Search, and read all hits."""
    sent = time.perf_counter()
    try:
        hits = sum([len(one.chunk.hits) async for one in stub.Search(request, timeout=_TIMEOUT_S)])
        reason = "OK" if hits else "EMPTY"
    except grpc.aio.AioRpcError as error:
        reason = _reason(error)
    done = time.perf_counter()
    return Searched(reason, (done - sent) * 1000, sent if due is None else due, done)


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return error.code().name


class Flood:
    """An open loop; use it once."""

    def __init__(self, address: str, requests: Iterator[pb.SearchRequest]) -> None:
        self._address = address
        self._requests = requests
        self._done: list[Searched] = []
        self._light: list[Searched] = []
        self._lags: list[float] = []
        self._unsent = 0

    async def run(
        self, rate: float, seconds: float, warm_seconds: float, connections: int
    ) -> dict[str, Any]:
        """Send at the rate, spread over the connections; then search alone for six seconds."""
        async with AsyncExitStack() as stack:
            stubs = [
                await stack.enter_async_context(_connected(self._address))
                for _ in range(connections + 1)
            ]
            gc.collect()
            gc.freeze()
            start = time.perf_counter()
            light = asyncio.create_task(self._light_caller(stubs.pop()))
            tasks = await self._flood(stubs, rate, seconds, start)
            end = time.perf_counter()
            afterwards = await self._afterwards(stubs[0], end)
            light.cancel()
            await asyncio.gather(light, *tasks, return_exceptions=True)
        return self._summary(start, start + warm_seconds, end, afterwards)

    async def _flood(
        self, stubs: list[pb_grpc.SearchServiceAsyncStub], rate: float, seconds: float, start: float
    ) -> set[asyncio.Task[None]]:
        tasks: set[asyncio.Task[None]] = set()
        for number in range(int(rate * seconds)):
            due = start + number / rate
            # Sleep even if it is late, so that answers are read.
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._lags.append(time.perf_counter() - due)
            if len(tasks) >= MAX_IN_FLIGHT:
                self._unsent += 1
                continue
            task = asyncio.create_task(self._one(stubs[number % len(stubs)], due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return tasks

    async def _one(self, stub: pb_grpc.SearchServiceAsyncStub, due: float) -> None:
        self._done.append(await searched(stub, next(self._requests), due))

    async def _light_caller(self, stub: pb_grpc.SearchServiceAsyncStub) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._light_search(stub))
                await asyncio.sleep(_LIGHT_INTERVAL_S)

    async def _light_search(self, stub: pb_grpc.SearchServiceAsyncStub) -> None:
        self._light.append(await searched(stub, next(self._requests)))

    async def _afterwards(
        self, stub: pb_grpc.SearchServiceAsyncStub, since: float
    ) -> list[tuple[float, float]]:
        found = []
        while time.perf_counter() < since + _AFTERWARDS_S:
            one = await searched(stub, next(self._requests))
            found.append((one.done - since, one.ms if one.reason == "OK" else _TIMEOUT_S * 1000))
            await asyncio.sleep(0.02)
        return found

    def _summary(
        self, start: float, since: float, until: float, afterwards: list[tuple[float, float]]
    ) -> dict[str, Any]:
        due = [one for one in self._done if since <= one.due <= until]
        served = sum(one.reason == "OK" and since <= one.done <= until for one in self._done)
        refused = [one.ms for one in due if one.reason in _REFUSED]
        light = [one for one in self._light if one.due <= until]
        answered = [one.ms for one in light if one.reason == "OK"]
        return {
            "seconds": until - since,
            "all_seconds": time.perf_counter() - start,
            "offered": len(self._lags) / (until - start),
            "unsent": self._unsent,
            "lag_ms_p99": float(np.percentile(self._lags, 99)) * 1000,
            "rate": served / (until - since),
            "codes": Counter(one.reason for one in due),
            "latencies_ms": [(one.done - one.due) * 1000 for one in due if one.reason == "OK"],
            "refused": len(refused),
            "refused_ms": refused,
            "light": {
                "searches": len(light),
                "ok": len(answered),
                "latencies_ms": answered,
                "failed": Counter(one.reason for one in light if one.reason != "OK"),
            },
            "afterwards": afterwards,
        }


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[pb_grpc.SearchServiceAsyncStub]:
    # Otherwise all channels of a process share one connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        await channel.channel_ready()
        yield pb_grpc.SearchServiceStub(channel)
