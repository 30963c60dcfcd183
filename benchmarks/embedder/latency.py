"""Measure the latency of one caller: alone, and while bulk requests saturate the worker."""

from __future__ import annotations

import time

from benchmarks.embedder.context import Bench
from benchmarks.load.agents import Agent
from benchmarks.report import Row, median, percentile
from benchmarks.servers import Server, bare
from embedder_server.settings import EmbedderSettings

_BLOCK = 10
_INTERACTIVE_RATE = 20.0
_BULK_CALLERS = 6
_BULK_BATCH: int = EmbedderSettings.model_fields["bulk_image_batch_items"].default
_SETTLE_S = 1.0


def lone_text(bench: Bench, server: Server, direct: Agent) -> list[Row]:
    """Compare single texts through gRPC and in-process with empty calls, in turns of ten.

    Empty calls are measured again, each right after a pass of the model in another process: a pass
    drives gRPC's code and data out of the caches, and every real call follows a pass.
    """
    through: list[float] = []
    looped: list[float] = []
    raw: list[float] = []
    empty: list[float] = []
    cold: list[float] = []
    totals: list[float] = []
    passes: list[float] = []
    with bare(bench.scratch, "embedder.empty_calls") as prepared:
        for number in range(bench.plan.lone_calls // _BLOCK + 1):
            answer = bench.lone(server, "sentinel", "text", calls=_BLOCK)
            called = direct.call("lone", calls=_BLOCK)
            echoed = bench.lone(prepared, "sentinel", "text", calls=_BLOCK)
            by_loop = bench.closed(server, "sentinel", "text", callers=1, max_requests=_BLOCK)
            if number:  # the first block warms up
                through += answer["latencies_ms"]
                raw += called["latencies_ms"]
                empty += echoed["latencies_ms"]
                looped += by_loop["latencies_ms"]
                totals.append(answer["server_ms"]["total"])
                passes.append(answer["server_ms"]["inference"])
        for _ in range(bench.plan.lone_calls):
            direct.call("lone", calls=1)
            cold += bench.lone(prepared, "sentinel", "text", calls=1)["latencies_ms"]
    note = (
        f"p50 {median(through):.2f} through gRPC, {median(totals):.2f} in the worker with "
        f"{median(passes):.2f} of the forward pass, {median(raw):.2f} called directly"
    )
    detail = {"through_grpc_ms": through, "asyncio_ms": looped, "direct_ms": raw}
    detail |= {"cold_call_ms": cold, "empty_call_ms": empty}
    name = "one text alone through gRPC minus the raw call, p50"
    return [
        Row(name, median(through) - median(raw), "ms", at_most=1.5, note=note, detail=detail),
        Row("... asked by an asyncio client", median(looped) - median(raw), "ms"),
        Row("an empty gRPC call right after a pass, p50", median(cold), "ms", note="its floor"),
        Row("an empty gRPC call right after another, p50", median(empty), "ms"),
    ]


def priority(bench: Bench, server: Server) -> list[Row]:
    """Compare interactive texts on an idle worker and on one that bulk images saturate."""
    idle: list[float] = []
    loaded: list[float] = []
    batches: list[float] = []
    rates: list[float] = []
    with bench.another_load() as bulk:
        for number in range(max(1, bench.plan.rounds // 2)):
            idle += _interactive(bench, server)
            bulk.start(
                "closed",
                kind="sentinel",
                address=server.address,
                requests={"content": "image", "per_request": _BULK_BATCH, "priority": "bulk"},
                callers=_BULK_CALLERS,
                seconds=bench.plan.priority_seconds + 2 * _SETTLE_S,
            )
            time.sleep(_SETTLE_S)
            loaded += _interactive(bench, server)
            answer = bulk.answer()
            batches.append(answer["server_ms"]["inference"])
            rates.append(answer["rate"])
            bench.say(f"priority: turn {number + 1}")
    return _priority_rows(idle, loaded, median(batches), median(rates))


def _interactive(bench: Bench, server: Server) -> list[float]:
    answer = bench.open(
        server,
        "sentinel",
        "text",
        rate=_INTERACTIVE_RATE,
        seconds=bench.plan.priority_seconds,
    )
    if answer["failed"] or answer["unsent"]:
        raise SystemExit(f"interactive texts failed: {answer['failed']}")
    latencies: list[float] = answer["latencies_ms"]
    return latencies


def _priority_rows(idle: list[float], loaded: list[float], batch: float, rate: float) -> list[Row]:
    quiet, busy = percentile(idle, 99), percentile(loaded, 99)
    bound = batch + 3 * quiet
    idle_note = f"p50 {median(idle):.1f} of {len(idle)}, {_INTERACTIVE_RATE:.0f} a second"
    busy_note = (
        f"p50 {median(loaded):.1f} of {len(loaded)}; bulk {rate:.0f} images/s beside it; "
        f"target: bulk batch {batch:.1f} + 3 x {quiet:.1f}"
    )
    detail = {"idle_ms": idle, "loaded_ms": loaded, "bulk_batch_ms": batch, "bulk_rate": rate}
    return [
        Row("interactive text on an idle worker, p99", quiet, "ms", note=idle_note),
        Row(
            f"one bulk batch of {_BULK_BATCH} images",
            batch,
            "ms",
            note="p50, as the worker reports",
        ),
        Row(
            "interactive text while bulk images saturate the worker, p99",
            busy,
            "ms",
            at_most=bound,
            note=busy_note,
            detail=detail,
        ),
    ]
