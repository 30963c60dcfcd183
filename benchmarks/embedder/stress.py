"""Measure a worker under overload, its memory over time, and its start."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

from benchmarks.embedder.context import CALLERS, Bench
from benchmarks.embedder.empty_calls import beside_empty_calls
from benchmarks.embedder.throughput import direct_model
from benchmarks.load.agents import Agent
from benchmarks.report import Row, median, percentile
from benchmarks.servers import Server, bare

# Small, so that the queue is soon full and the steady state is measured.
_QUEUE_ITEMS = 128
_QUEUE_FLAGS = ("--max-queue-items", str(_QUEUE_ITEMS), "--max-contents-per-request", "32")
_EXCESS = 3
_DIRECT_BATCH = 16
# Single texts at three times the capacity cost the client much of a small machine. Requests of
# eight cost it little. Both are measured.
_SHAPES = (("text", 1), ("text", 8), ("image", 1))
_DEFAULT_MODEL = "conse-minilm-lite0"
_SETTLE_S = 2.0
_MIXED_RUN = 2_000


def overload(bench: Bench) -> list[Row]:
    """Offer three times a worker's peak in an open loop, in turns with measuring the peak.

    The floor of the goodput is the same ratio of the model called directly, beside as many empty
    calls as were offered and as many as at the peak.
    """
    rows = []
    with (
        bench.worker(*_QUEUE_FLAGS) as server,
        direct_model(bench, server) as direct,
        bare(bench.scratch, "embedder.empty_calls") as echo,
    ):
        for kind, size in _SHAPES:
            name = kind if size == 1 else f"{kind}, requests of {size}"
            turns = [_overload_turn(bench, server, kind, size) for _ in range(_turns(bench))]
            direct.call("throughput", kind=kind, batch=_DIRECT_BATCH, seconds=1.0)  # warms up
            floors = [_floor(bench, direct, echo, kind, turn) for turn in turns]
            rows += _overload_rows(name, turns, median(floors))
            bench.say(f"overload: {name} done")
    return rows


def _floor(bench: Bench, direct: Agent, echo: Server, kind: str, turn: dict[str, Any]) -> float:
    few, many = (
        beside_empty_calls(
            bench, direct, echo, kind,
            calls_per_second=rate, per_request=turn["size"], batch=_DIRECT_BATCH,
        )
        for rate in (turn["peak"] / turn["size"], turn["offered"])
    )  # fmt: skip
    turn["floor_offered"] = many["offered"]
    return float(many["rate"] / few["rate"])


def _turns(bench: Bench) -> int:
    return math.ceil(bench.plan.rounds / 2)


def _overload_turn(bench: Bench, server: Server, kind: str, size: int) -> dict[str, Any]:
    capacity = _peak(bench, server, kind, size)
    # Until the queue is full, and the first call that waited in the full queue has its answer.
    warm = 1.0 + 1.5 * _QUEUE_ITEMS / capacity
    answer = bench.open(
        server,
        "sentinel",
        kind,
        per_request=size,
        rate=_EXCESS * capacity / size,
        seconds=warm + bench.plan.overload_seconds,
        warm_seconds=warm,
    )
    others = set(answer["failed"]) - {"RESOURCE_EXHAUSTED"}
    p99 = percentile(answer.pop("latencies_ms"), 99)
    # Before and after: a peak measured while others used the machine would make the ratio too good.
    peak = max(capacity, _peak(bench, server, kind, size))
    return {"peak": peak, "size": size, "p99_ms": p99, "others": sorted(others), **answer}


def _peak(bench: Bench, server: Server, kind: str, size: int) -> float:
    seconds = bench.plan.seconds
    callers = max(4, CALLERS // size)
    answer = bench.closed(
        server, "sentinel", kind, callers=callers, per_request=size, seconds=seconds
    )
    rate: float = answer["rate"]
    return rate


def _overload_rows(kind: str, turns: list[dict[str, Any]], floor: float) -> list[Row]:
    goodput = median([turn["rate"] / turn["peak"] for turn in turns])
    bounds = [_QUEUE_ITEMS / turn["rate"] * 1000 for turn in turns]
    share = median([turn["p99_ms"] / bound for turn, bound in zip(turns, bounds, strict=True)])
    offered = median([turn["size"] * turn["offered"] / turn["peak"] for turn in turns])
    client = median([turn["cpu_seconds"] / turn["seconds"] for turn in turns])
    lag = max(turn["lag_ms_p99"] for turn in turns)
    note = f"offered {offered:.1f}x the peak; client: {client:.2f} cores, late by {lag:.0f} ms p99"
    if others := sorted({code for turn in turns for code in turn["others"]}):
        note += f"; refused with other codes than RESOURCE_EXHAUSTED: {', '.join(others)}"
    late = f"{median([turn['p99_ms'] for turn in turns]):.0f} ms of {median(bounds):.0f} ms"
    beside = median([turn["floor_offered"] / turn["offered"] for turn in turns])
    note += f"; floor, beside {beside:.2f} of these calls: {floor:.2f}"
    detail = {"turns": turns, "queue_items": _QUEUE_ITEMS, "floor": floor}
    return [
        Row(
            f"{kind}: goodput at {_EXCESS}x the capacity offered ÷ peak",
            goodput,
            "x",
            at_least=0.9,
            note=note,
            detail=detail,
        ),
        Row(
            f"{kind}: p99 of the accepted ÷ (queue bound ÷ rate)", share, "x", at_most=1, note=late
        ),
    ]


def memory(bench: Bench) -> list[Row]:
    """Compare the worker's memory after few and after many mixed requests."""
    few, many = bench.plan.memory_requests
    resident = []
    failed: dict[str, int] = {}
    with bench.worker() as server:
        fresh = server.memory_bytes()
        for count in (few, many - few):
            for code, number in _mixed_load(bench, server, count).items():
                failed[code] = failed.get(code, 0) + number
            time.sleep(_SETTLE_S)
            resident.append(server.memory_bytes())
            bench.say(f"memory: {count} requests done")
    growth = (resident[1] / resident[0] - 1) * 100
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in (fresh, *resident))
    note = f"{sizes} MiB when fresh, after {few:,}, after {many:,}"
    if failed:
        note += f"; calls failed: {failed}"
    detail = {"fresh_bytes": fresh, "resident_bytes": resident, "failed": failed}
    name = f"memory after {many:,} mixed requests minus after {few:,}"
    return [Row(name, growth, "%", at_most=5, note=note, detail=detail)]


def _mixed_load(bench: Bench, server: Server, count: int) -> Counter[str]:
    """Make `count` mixed requests, in runs short enough for the load generator's limit."""
    failed: Counter[str] = Counter()
    while count > 0:
        answer = bench.closed(
            server, "sentinel", "mixed", callers=16, max_requests=min(count, _MIXED_RUN)
        )
        if not answer["requests"]:
            raise SystemExit("the worker does not answer any more")
        count -= answer["requests"]
        failed.update(answer["failed"])
    return failed


def starts(bench: Bench) -> list[Row]:
    """Measure the time from process start to SERVING; the first start fills the caches."""
    rows = []
    models: list[tuple[str, str | None, float | None]] = [
        (f"{_DEFAULT_MODEL}, the offline default", _DEFAULT_MODEL, 5.0)
    ]
    if bench.choice.model != _DEFAULT_MODEL:
        models.append((bench.choice.model.rpartition("/")[2], None, None))
    for label, model, target in models:
        seconds = []
        for _ in range(bench.plan.starts + 1):
            with bench.worker(model=model) as server:
                seconds.append(server.start_seconds)
        warm = seconds[1:]
        note = f"{min(warm):.1f} to {max(warm):.1f} in {len(warm)}; the first {seconds[0]:.1f}"
        name = f"start to SERVING with warm caches: {label}"
        detail = {"seconds": seconds}
        rows.append(Row(name, median(warm), "s", at_most=target, note=note, detail=detail))
        bench.say(f"starts of {label} done")
    return rows
