"""The load generator for embedding servers, an agent (see `agents`).

* Closed loop: each of N callers sends its next request when it has an answer.
* Lone: one caller with a blocking stub.
* Open loop: requests leave at a fixed rate. Latency counts from the moment a request was due, so
  that a slow server cannot slow down the measurement.

Every loop is limited in number and time, and connects to this machine only.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load import agents
from benchmarks.load.embed_clients import EmbedClient, Outcome, Send, SentinelEmbedClient
from benchmarks.peers.infinity import InfinityEmbedClient

MAX_SECONDS = 600.0
MAX_REQUESTS = 100_000
MAX_CALLERS = 256
MAX_RATE = 5_000.0
MAX_IN_FLIGHT = 4_096


@dataclass
class Tally:
    """The calls of one loop; times in seconds of `time.perf_counter`."""

    due: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, due: float, outcome: Outcome) -> None:
        self.due.append(due)
        self.done.append(time.perf_counter())
        self.outcomes.append(outcome)

    def summary(self, since: float, until: float) -> dict[str, Any]:
        """Return the rate of calls that ended, and the latency of calls due, in a time window."""
        done = zip(self.done, self.outcomes, strict=True)
        items = sum(outcome.items for at, outcome in done if since <= at <= until)
        due = list(zip(self.due, self.done, self.outcomes, strict=True))
        accepted = [(at, end, out) for at, end, out in due if out.code == "OK" and at >= since]
        failed = Counter(outcome.code for outcome in self.outcomes if outcome.code != "OK")
        return {
            "requests": len(self.outcomes),
            "items": items,
            "seconds": until - since,
            "rate": items / (until - since),
            "failed": dict(failed),
            "item_errors": sum(outcome.item_errors for outcome in self.outcomes),
            "latencies_ms": [round((end - at) * 1000, 3) for at, end, _ in accepted],
            "server_ms": _server_medians(out.timings_ms for _, _, out in accepted),
        }


def _server_medians(timings: Iterable[dict[str, float]]) -> dict[str, float]:
    known = [timing for timing in timings if timing]
    if not known:
        return {}
    return {name: float(np.median([timing[name] for timing in known])) for name in known[0]}


class LoadGenerator:
    """Runs loops of calls; keeps connections and requests between commands."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], EmbedClient] = {}
        self._runner = asyncio.Runner()

    def closed(
        self,
        *,
        kind: str,
        address: str,
        requests: dict[str, Any],
        callers: int,
        seconds: float = MAX_SECONDS,
        max_requests: int = MAX_REQUESTS,
    ) -> dict[str, Any]:
        """Run N callers until the time or the requests are used up; wait for every answer."""
        _require(callers <= MAX_CALLERS and seconds <= MAX_SECONDS and max_requests <= MAX_REQUESTS)
        client = self._client(kind, address)
        payloads = client.payloads(**requests)
        return self._runner.run(_closed(client, payloads, callers, seconds, max_requests))

    def lone(
        self, *, kind: str, address: str, requests: dict[str, Any], calls: int
    ) -> dict[str, Any]:
        """Send one request after the other with gRPC's blocking stub, as a script does."""
        _require(calls <= MAX_REQUESTS)
        client = self._client(kind, address)
        if not isinstance(client, SentinelEmbedClient):
            raise ValueError(f"{kind} has no blocking stub")
        payloads = client.payloads(**requests)
        tally = Tally()
        start = time.perf_counter()
        for number in range(calls):
            due = time.perf_counter()
            tally.add(due, client.send_and_wait(payloads[number % len(payloads)]))
        return tally.summary(start, time.perf_counter())

    def open(
        self,
        *,
        kind: str,
        address: str,
        requests: dict[str, Any],
        rate: float,
        seconds: float,
        warm_seconds: float = 0.0,
    ) -> dict[str, Any]:
        """Send requests at a constant rate; report on the time after `warm_seconds`."""
        _require(rate <= MAX_RATE and seconds <= MAX_SECONDS and rate * seconds <= MAX_REQUESTS)
        client = self._client(kind, address)
        payloads = client.payloads(**requests)
        return self._runner.run(_open(client, payloads, rate, seconds, warm_seconds))

    def _client(self, kind: str, address: str) -> EmbedClient:
        key = (kind, address)
        if key not in self._clients:
            host = address.rpartition(":")[0].strip("[]")
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise ValueError(f"load goes to loopback addresses only, not to {address}")
            infinity = kind == "infinity"
            self._clients[key] = (
                InfinityEmbedClient(address) if infinity else SentinelEmbedClient(address)
            )
        return self._clients[key]


async def _closed(
    client: EmbedClient, payloads: list[bytes], callers: int, seconds: float, max_requests: int
) -> dict[str, Any]:
    sends = await client.sends(callers)
    tally = Tally()
    numbers = iter(range(max_requests))
    gc.collect()
    gc.freeze()
    start = time.perf_counter()

    async def caller(send: Send) -> None:
        while (began := time.perf_counter()) < start + seconds:
            number = next(numbers, None)
            if number is None:
                return
            tally.add(began, await send(payloads[number % len(payloads)]))

    await asyncio.gather(*(caller(send) for send in sends))
    # Up to the last answer: answers arrive in batches, and a batch that is cut off would be a
    # large part of a short window.
    return tally.summary(start, time.perf_counter())


async def _open(
    client: EmbedClient, payloads: list[bytes], rate: float, seconds: float, warm_seconds: float
) -> dict[str, Any]:
    [send] = await client.sends(1)
    tally = Tally()
    tasks: set[asyncio.Task[None]] = set()
    unsent, lags = 0, []
    gc.collect()
    gc.freeze()
    start = time.perf_counter()

    async def one(due: float, payload: bytes) -> None:
        tally.add(due, await send(payload))

    for number in range(int(rate * seconds)):
        due = start + number / rate
        # Sleep even if it is late, so that answers are read.
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        lags.append(time.perf_counter() - due)
        if len(tasks) >= MAX_IN_FLIGHT:
            unsent += 1
            continue
        task = asyncio.create_task(one(due, payloads[number % len(payloads)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    end = time.perf_counter()
    await asyncio.gather(*tasks)
    # `end` is later than planned if the client was too slow.
    summary = tally.summary(start + warm_seconds, end)
    offered = len(lags) / (end - start)
    lag = float(np.percentile(lags, 99)) * 1000
    return {**summary, "offered": offered, "unsent": unsent, "lag_ms_p99": lag}


def _require(within: bool) -> None:
    if not within:
        raise ValueError("the load is above the limits of benchmarks/load/embed_generator.py")


def main() -> None:
    generator = LoadGenerator()
    agents.serve({"closed": generator.closed, "lone": generator.lone, "open": generator.open})


if __name__ == "__main__":
    main()
