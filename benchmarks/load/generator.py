"""The load generator: a process of its own that other processes command (see `agents`).

Closed loop: N callers, each of which asks again once it has its answer; alone, one that blocks
meanwhile. Open loop: requests at fixed moments, whether or not earlier ones are answered; latency
counts from the moment a request was due, so that a slow server cannot slow down the measurement.
Every loop is bounded in count and time, and talks to this machine only.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load import agents
from benchmarks.load.targets import Outcome, Send, SentinelTarget, Target, target_for

MAX_SECONDS = 600.0
MAX_REQUESTS = 100_000
MAX_CALLERS = 256
MAX_RATE = 5_000.0
MAX_IN_FLIGHT = 4_096


@dataclass
class Tally:
    """What came of the calls of one loop; times in seconds on the loop's clock."""

    due: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, due: float, outcome: Outcome) -> None:
        self.due.append(due)
        self.done.append(time.perf_counter())
        self.outcomes.append(outcome)

    def summary(self, since: float, until: float) -> dict[str, Any]:
        """Return rate of what was done, and latency of what was due, in a window of time."""
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
    """Keeps connections and prepared requests from one command to the next."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str], Target] = {}
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
        """Run N callers until time is up or enough is asked; all that was asked is waited for."""
        _bound(callers <= MAX_CALLERS and seconds <= MAX_SECONDS and max_requests <= MAX_REQUESTS)
        target = self._target(kind, address)
        payloads = target.payloads(**requests)
        return self._runner.run(_closed(target, payloads, callers, seconds, max_requests))

    def lone(
        self, *, kind: str, address: str, requests: dict[str, Any], calls: int
    ) -> dict[str, Any]:
        """Ask one request after the other with gRPC's blocking stub, as a script does."""
        _bound(calls <= MAX_REQUESTS)
        target = self._target(kind, address)
        if not isinstance(target, SentinelTarget):
            raise ValueError(f"{kind} has no blocking stub")
        payloads = target.payloads(**requests)
        tally = Tally()
        start = time.perf_counter()
        for number in range(calls):
            due = time.perf_counter()
            tally.add(due, target.send_and_wait(payloads[number % len(payloads)]))
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
        """Ask at a constant rate; report what happened after the first `warm_seconds`."""
        _bound(rate <= MAX_RATE and seconds <= MAX_SECONDS and rate * seconds <= MAX_REQUESTS)
        target = self._target(kind, address)
        payloads = target.payloads(**requests)
        return self._runner.run(_open(target, payloads, rate, seconds, warm_seconds))

    def _target(self, kind: str, address: str) -> Target:
        key = (kind, address)
        if key not in self._targets:
            self._targets[key] = target_for(kind, address)
        return self._targets[key]


async def _closed(
    target: Target, payloads: list[bytes], callers: int, seconds: float, max_requests: int
) -> dict[str, Any]:
    sends = await target.sends(callers)
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
    # To the last answer: servers answer in lumps of a batch, and a lump that is cut off by
    # the end of the window would be a large part of a short one.
    return tally.summary(start, time.perf_counter())


async def _open(
    target: Target, payloads: list[bytes], rate: float, seconds: float, warm_seconds: float
) -> dict[str, Any]:
    [send] = await target.sends(1)
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
        # Late or not, answers must be read.
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
    # `end` is later than planned if the client could not keep up.
    summary = tally.summary(start + warm_seconds, end)
    offered = len(lags) / (end - start)
    lag = float(np.percentile(lags, 99)) * 1000
    return {**summary, "offered": offered, "unsent": unsent, "lag_ms_p99": lag}


def _bound(within: bool) -> None:
    if not within:
        raise ValueError("the load is above the bounds of benchmarks/load.py")


def main() -> None:
    generator = LoadGenerator()
    agents.serve({"closed": generator.closed, "lone": generator.lone, "open": generator.open})


if __name__ == "__main__":
    main()
